"""Odd and damaged images and tables, through the command line: told by name, or read rightly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.inference.run import load
from tests.cli.conftest import in_process
from tests.data.written import write_class_folders, write_table

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    write_class_folders(root, n=12, size=64)
    return root


def _check(tmp_path: Path, config: str, *args: str) -> list[str]:
    return [
        "data", "check", "--config", str(CONFIGS / f"{config}.yaml"),
        "--run_dir", str(tmp_path / "run"), *args,
    ]  # fmt: skip


def _on_folder(tmp_path: Path, command: str = "check") -> list[str]:
    words = _check(tmp_path, "folder_scratch", "--dataset.root", str(tmp_path / "images"))
    words += ["--dataset.cache_dir", str(tmp_path / "cache")]
    for stage in ("disentangle", "multitask"):
        words += [f"--{stage}.data.batch_size", "4"]
    return ["data", command, *words[2:]]


def _findings(tmp_path: Path) -> str:
    return (tmp_path / "run" / "data" / "check.json").read_text(encoding="utf-8")


def _truncate(path: Path) -> None:
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("cat/half.jpg", _truncate),
        ("dog/empty.png", lambda path: path.write_bytes(b"")),
        ("bird/größe.jpg", lambda path: path.write_text("no image", encoding="utf-8")),
        ("cat/float.tif", lambda path: Image.new("F", (64, 64), float("nan")).save(path)),
    ],
    ids=["truncated", "zero bytes", "text", "not a number"],
)
def test_an_unreadable_file_is_named(
    name: str,
    spoil: Callable[[Path], object],
    folder: Path,
    tmp_path: Path,
    error_line: Callable[[list[str]], str],
) -> None:
    spoil(folder / name)
    assert main(_on_folder(tmp_path)) == 3
    findings = json.loads(_findings(tmp_path))["findings"]
    assert [Path(found["names"][0].split(": ")[0]) for found in findings if found["mend"]] == [
        folder / name
    ]
    line = error_line(_on_folder(tmp_path, "show"))
    assert "1 of 37 images cannot be read" in line
    assert str(folder / name) in line


def _cmyk(path: Path) -> None:
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(path.with_suffix(".jpg"))


def _sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((64, 64), 65_535, np.uint16)).save(path)


def _palette(path: Path) -> None:
    Image.new("P", (64, 64)).save(path)


def _grey(path: Path) -> None:
    Image.new("L", (64, 64), 128).save(path)


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 64)).save(path.with_suffix(".jpg"), exif=exif)


def _non_ascii(path: Path) -> None:
    Image.new("RGB", (64, 64)).save(path.with_name("ñandú 鳥.png"))


@pytest.mark.parametrize("write", [_cmyk, _sixteen_bits, _palette, _grey, _turned, _non_ascii])
def test_an_odd_file_is_read(
    write: Callable[[Path], None], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "bird" / "odd.png")
    assert main(_on_folder(tmp_path)) == 0
    assert "nothing to mend" in capsys.readouterr().out
    assert json.loads(_findings(tmp_path))["counts"]["bird"]["train"] == 9


def test_a_class_of_one_image_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "rare").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "rare" / "only.png")
    assert main(_on_folder(tmp_path)) == 3
    (found,) = [found for found in json.loads(_findings(tmp_path))["findings"] if found["mend"]]
    assert "one train image" in found["what"]
    assert found["names"] == ["rare"]


def test_a_table_is_told_what_it_lacks(
    tmp_path: Path, error_line: Callable[[list[str]], str]
) -> None:
    table = write_table(tmp_path / "table")
    words = _check(tmp_path, "table", "--dataset.path", str(table))
    line = error_line([*words, "--dataset.principal", "labell"])
    assert "'labell'" in line
    assert "label" in line
    (tmp_path / "table" / "images" / "007.png").unlink()
    line = error_line(words)
    assert str(table) in line
    assert "007.png" in line
    assert "9" in line  # the line of the table


def test_a_wrong_h5_is_told_what_it_holds(
    tmp_path: Path, error_line: Callable[[list[str]], str]
) -> None:
    path = tmp_path / "arrays.h5"
    with h5py.File(path, "w") as file:
        file["pictures"] = np.zeros((4, 8, 8), np.uint8)
    words = ["--dataset", "ImageArrays", "--dataset.path", str(path), "--dataset.principal", "y"]
    line = error_line(_check(tmp_path, "quickstart", *words))
    assert str(path) in line
    assert "pictures" in line
    path.write_bytes(b"not HDF5")
    assert str(path) in error_line(_check(tmp_path, "quickstart", *words))


def test_links_to_a_folder_above_are_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "up").symlink_to("..", target_is_directory=True)
    (folder / "dog" / "cats").symlink_to("../cat", target_is_directory=True)
    (folder / "elsewhere").symlink_to(tmp_path / "more", target_is_directory=True)
    write_class_folders(tmp_path / "more", classes=("deep",), n=9, size=64, seed=1)
    assert main(_on_folder(tmp_path)) == 3  # the cats are dogs, too
    check = json.loads(_findings(tmp_path))
    totals = {name: sum(counts.values()) for name, counts in check["counts"].items()}
    assert totals == {"bird": 12, "cat": 12, "dog": 24, "elsewhere": 9}
    (left_out,) = [f["names"] for f in check["findings"] if "left out" in f["what"]]
    assert left_out == [str(folder / "cat" / "up"), str(folder / "dog" / "cats" / "up")]


def test_changed_images_are_not_mixed_with_what_was_trained_on_others(
    folder: Path, tmp_path: Path, error_line: Callable[[list[str]], str]
) -> None:
    words = ["--until", "disentangle", *_on_folder(tmp_path)[2:], "--disentangle.data.batch_size"]
    words += ["4", "--disentangle.trainer.max_epochs", "1", "--multitask.trainer.max_epochs", "1"]
    words += ["--disentangle.trainer.accelerator", "cpu"]
    words += ["--disentangle.trainer.enable_progress_bar", "false"]
    assert run_chain(words, in_process) == 0
    assert run_chain(words, in_process) == 0
    Image.new("RGB", (64, 64), "white").save(folder / "cat" / "00.png")
    line = error_line(["fit", *words])
    assert "made with other settings: files was" in line
    stage = ["--config", str(tmp_path / "run" / "disentangle" / "config.yaml")]
    for command in (["predict", "--redo", "disentangle/codes"], ["validate"]):
        line = error_line(["disentangle", *command, *stage])
        assert "the data files have changed" in line
    with pytest.raises(ArtifactError, match="the data files have changed"):
        _ = load(tmp_path / "run").data
