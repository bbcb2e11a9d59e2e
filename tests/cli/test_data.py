"""`detaux data`: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from detaux_pl.artifacts.codes import LABELLED
from detaux_pl.artifacts.files import read_json
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.report.sheets import SheetRow
from tests.cli.conftest import CONF, in_process

Refused = Callable[[list[str]], str]


def _data(command: str, run_dir: Path, *args: str) -> list[str]:
    config = str(CONF / "chain.yaml")
    return ["data", command, "--config", config, "--run_dir", str(run_dir), *args]


def test_check_of_good_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(_data("check", tmp_path / "run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing to mend"
    assert lines[-2] == f"in full: {tmp_path / 'run' / 'data' / 'check.json'}"
    rows = [line.split() for line in lines]
    assert ["digit", "train", "val", "test"] in rows
    assert ["all", "256", "64", "64"] in rows
    assert ["factor", "background", "4", "values"] in rows
    report = read_json(tmp_path / "run" / "data" / "check.json")
    assert sum(counts["train"] for counts in report["counts"].values()) == 256
    assert report["memory"]["pixels"] == 384 * 3 * 16 * 16
    assert report["memory"]["batch"] == 2 * 32 * 3 * 16 * 16 * 4
    assert report["to_mend"] == 0


@pytest.mark.parametrize(
    ("module", "views"), [("ImageDataModule", 1), ("PairDataModule", 2), ("ViewDataModule", 2)]
)
def test_a_batch_holds_every_view_of_its_images(tmp_path: Path, module: str, views: int):
    sizes = ["--disentangle.data.init_args.batch_size", "8"]
    words = ["--disentangle.data", module, *sizes]
    assert main(_data("check", tmp_path / "run", *words)) == 0
    memory = read_json(tmp_path / "run" / "data" / "check.json")["memory"]
    assert memory["batch"] == views * 8 * 3 * 16 * 16 * 4


def test_check_of_data_to_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    setup = DigitScenes.setup

    def leaking(self: DigitScenes) -> None:
        setup(self)
        assert self.pixels is not None
        self.pixels[-5:] = self.pixels[:5]

    monkeypatch.setattr(DigitScenes, "setup", leaking)
    assert main(_data("check", tmp_path / "run")) == 3
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "1 thing to mend"
    k = out.index("mend  5 images stand in more than one split: keep one of each")
    assert out[k + 1 : k + 5] == [
        "      0 (train) = 379 (test)",
        "      1 (train) = 380 (test)",
        "      2 (train) = 381 (test)",
        "      and 2 more",
    ]
    (finding,) = [f for f in read_json(tmp_path / "run/data/check.json")["findings"] if f["mend"]]
    assert finding["names"][4] == "4 (train) = 383 (test)"


def test_of_many_classes_the_rarest_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    setup = DigitScenes.setup

    def many(self: DigitScenes) -> None:
        setup(self)
        self.factors[:, 0] = np.arange(len(self)) % 39  # 6 or 7 images each in train
        self.factors[0, 0] = 39
        self.factor_sizes = (40, *self.factor_sizes[1:])
        self.value_names = {"digit": [f"[kind {k}]" for k in range(40)]}

    monkeypatch.setattr(DigitScenes, "setup", many)
    assert main(_data("check", tmp_path / "run")) == 3
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    start = rows.index(["digit", "train", "val", "test"])
    assert rows[start + 2] == ["[kind", "39]", "1", "0", "0"]
    assert rows[start + 14][:3] == ["and", "28", "more"]
    assert "1 class of one train image, where a pair needs 2" in out


@pytest.mark.parametrize("module", ["PairDataModule", "ViewDataModule"])
def test_show_draws_classes_and_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], module: str
):
    args = ["--disentangle.data", module, "--disentangle.data.batch_size=16"]
    assert main(_data("show", tmp_path / "run", *args)) == 0
    paths = [tmp_path / "run" / "data" / name for name in ("contact_sheet.png", "pairs.png")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
    for path in paths:
        with Image.open(path) as image:
            assert image.width > 900
            assert image.getcolors(1000) is None  # many colours: images, not a blank page


def test_strips_say_what_their_images_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[list[SheetRow]] = []

    def strip_sheet(rows: list[SheetRow], columns: int) -> Figure:
        drawn.append(rows)
        return Figure()

    monkeypatch.setattr("detaux_pl.cli.data.strip_sheet", strip_sheet)
    assert main(_data("show", tmp_path / "run", "--noise=null")) == 0
    classes, pairs = drawn
    titles = [row.title.replace(" in train", "").split(" · ") for row in classes]
    assert [title[0] for title in titles] == [str(digit) for digit in range(10)]
    assert sum(int(title[1]) for title in titles) == 256
    dataset = DigitScenes(n_train=256, n_val=64, n_test=64, n_locations=4, n_backgrounds=4)
    dataset.setup()
    assert dataset.pixels is not None
    digit_of = {
        image.numpy().tobytes(): str(digit)
        for image, digit in zip(dataset.pixels[:256], dataset.labels, strict=False)
    }

    def digits(row: SheetRow) -> list[str]:
        return [digit_of[np.rint(255 * image).astype(np.uint8).tobytes()] for image in row.images]

    for row, (digit, count) in zip(classes, titles, strict=True):
        assert digits(row) == [digit] * min(10, int(count))
    assert len(pairs) == 12
    for row in pairs:
        first, second = digits(row)
        if first == second:
            assert (row.title, row.detail) == ("same digit", first)
        else:
            assert (row.title, row.detail) == ("different digit", f"{first} · {second}")


@pytest.fixture
def folder_args(tmp_path: Path) -> list[str]:
    """Words for a folder of 3 classes of 10 images, one of which is also in another class."""
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in ("ara", "Bär", "犬"):
        (root / name).mkdir(parents=True)
        for k in range(10):
            pixels = rng.integers(0, 256, (20 + k, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{k}.png")
    shutil.copy(root / "ara" / "0.png", root / "Bär" / "again.png")
    given = {"root": str(root), "image_size": 16, "cache_dir": str(tmp_path / "cache")}
    settings = yaml.safe_load((CONF / "chain.yaml").read_text())
    settings["dataset"] = {"class_path": "ImageFolder", "init_args": given}
    settings["disentangle"]["data"] = {"init_args": {"batch_size": 8}}
    path = tmp_path / "folder.yaml"
    path.write_text(yaml.safe_dump(settings))
    return ["--config", str(path), "--run_dir", str(tmp_path / "run")]


def test_a_folder_of_files_with_its_unreadable_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error_line: Refused, folder_args: list[str]
):
    bad = tmp_path / "photos" / "ara" / "bad.jpg"
    bad.write_bytes(b"")
    assert main(["data", "check", *folder_args]) == 3
    out = capsys.readouterr().out
    assert f"      {bad}: it is no image\n" in out
    assert "RGB 31" in out
    assert "20 to 29 pixels, median 24" in out
    assert f"cache: {tmp_path / 'cache'}" in out
    findings = read_json(tmp_path / "run" / "data" / "check.json")["findings"]
    (disagreeing,) = [f["names"] for f in findings if "several labels" in f["what"]]
    assert set(disagreeing[0].split(" = ")) == {"ara/0.png (ara)", "Bär/again.png (Bär)"}
    assert str(bad) in error_line(["data", "show", *folder_args])
    bad.unlink()
    assert main(["data", "show", *folder_args]) == 0


def test_bad_input_is_one_line(error_line: Refused, tmp_path: Path):
    assert "got no command: choose one of check, show" in error_line(["data"])
    assert "got 'look': choose one of check, show" in error_line(["data", "look"])
    assert "nowhere.yaml" in error_line(["data", "check", "--config", "nowhere.yaml"])
    run = tmp_path / "run"
    assert "image_size is 20" in error_line(_data("check", run, "--dataset.image_size=20"))
    shapes = ["--dataset=Shapes3D", f"--dataset.path={tmp_path / '3dshapes.h5'}"]
    for command in ("check", "show"):
        config = str(CONF / "shapes.yaml")
        words = ["data", command, "--config", config, "--run_dir", str(run), *shapes]
        assert "3dshapes.h5 does not exist" in error_line(words)
    (tmp_path / "file").write_text("")
    assert "cannot be used as a run folder" in error_line(_data("check", tmp_path / "file"))


def test_help_is_short(capsys: pytest.CaptureFixture[str]):
    for words in (["data", "--help"], ["data", "check", "-h"]):
        assert main(words) == 0
        assert 5 < len(capsys.readouterr().out.splitlines()) < 20


def _folders(tmp_path: Path, **counts: dict[str, int]) -> list[str]:
    """Write images of noise, by split (or `all`) and class; return the words that name them."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for split, classes in counts.items():
        for name, n in classes.items():
            folder = root / name if split == "all" else root / split / name
            folder.mkdir(parents=True)
            for k in range(n):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.png")
    given = {"root": str(root), "image_size": 16, "cache_dir": str(tmp_path / "cache")}
    settings = yaml.safe_load((CONF / "chain.yaml").read_text())
    settings["dataset"] = {"class_path": "ImageFolder", "init_args": given}
    for stage in ("disentangle", "multitask"):
        settings[stage]["data"] = {"init_args": {"batch_size": 8}}
        settings[stage]["trainer"]["max_epochs"] = 1
    path = tmp_path / "folders.yaml"
    path.write_text(yaml.safe_dump(settings))
    return ["--config", str(path), "--run_dir", str(tmp_path / "run")]


def _counts(tmp_path: Path) -> dict[str, list[int]]:
    counts = read_json(tmp_path / "run" / "data" / "check.json")["counts"]
    return {name: [row[split] for split in LABELLED] for name, row in counts.items()}


def _to_mend(tmp_path: Path) -> list[str]:
    findings = read_json(tmp_path / "run" / "data" / "check.json")["findings"]
    return [finding["what"] for finding in findings if finding["mend"]]


def test_small_classes_are_in_every_drawn_split_and_the_chain_begins(tmp_path: Path):
    words = _folders(tmp_path, all={"big": 40, "few": 4, "rare": 4, "three": 3})
    assert main(["data", "check", *words]) == 0
    drawn = {"big": [29, 3, 8], "few": [2, 1, 1], "rare": [2, 1, 1], "three": [2, 0, 1]}
    assert _counts(tmp_path) == drawn
    assert run_chain([*words, "--until", "disentangle"], in_process) == 0
    assert (tmp_path / "run" / "disentangle" / "checkpoints" / "last.ckpt").is_file()


def test_what_pairs_demand_is_told_by_the_check_and_at_once(tmp_path: Path, error_line: Refused):
    train, one = {"big": 30, "few": 5}, {"big": 3}
    words = _folders(tmp_path, train=train, val=one, test={"big": 2, "few": 2})
    line = (
        "the val split of ImageFolder: pairs need at least 2 classes, but all 3 images are of one: "
        "choose another pairing or a model without pairs; or give val more images, raise val_share "
        "if it is drawn; 2 of each class stay in train."
    )
    assert main(["data", "check", *words]) == 3
    assert _to_mend(tmp_path) == [f"disentangle: {line}"]
    assert line in error_line(["fit", *words])
    assert not (tmp_path / "run" / "disentangle").exists()
    single = ["--disentangle.model", "BetaVAE", "--disentangle.data", "ImageDataModule"]
    assert main(["data", "check", *words, *single, "--disentangle.data.batch_size=8"]) == 0
    assert _to_mend(tmp_path) == []


@pytest.mark.slow
def test_what_other_trainings_demand_is_told_too(tmp_path: Path, error_line: Refused):
    words = _folders(tmp_path, all={"big": 30, "few": 10})
    given = ["--multitask.data.batch_size=100", "--controls=[]"]
    assert main(["data", "check", *words, *given]) == 3
    line = "the train split has 29 images, fewer than one batch of 100 on 1 rank(s)"
    assert _to_mend(tmp_path) == [f"multitask: {line}: lower batch_size."]
    assert line in error_line(["fit", *words, *given])
    assert main(["data", "check", *words, *given, "--until", "cluster"]) == 0  # it stops before
    assert run_chain([*words, *given, "--until", "disentangle"], in_process) == 0
    given = [
        "--disentangle.data.pairing=SharedFactors",
        "--disentangle.data.pairing.shared=[label]",
    ]
    assert main(["data", "check", *words, *given]) == 3
    (line,) = _to_mend(tmp_path)
    assert line.startswith("disentangle: the val split of ImageFolder: the image few/")
    assert "has no partner in its split: no other has label few" in line
    more = ["--disentangle.trainer.devices=4", "--disentangle.trainer.strategy=ddp"]
    assert main(["data", "check", *words, *more]) == 3
    assert "29 pairs, fewer than one batch of 8 on 4 rank(s)" in _to_mend(tmp_path)[0]


def test_what_the_nets_of_folds_demand_is_told_too(tmp_path: Path, error_line: Refused):
    words = _folders(tmp_path, all={"big": 30, "few": 10})
    given = ["--refine.rounds=2", "--multitask.data.batch_size=16", "--controls=[]"]
    line = (
        "with 4 folds and 2 round(s) a net is trained on 13 of 29 images, fewer than one batch of "
        "16: lower multitask.data.batch_size or the rounds, or take other folds (nets.folds)."
    )
    assert main(["data", "check", *words, *given]) == 3
    assert _to_mend(tmp_path) == [line]
    assert line in error_line(["fit", *words, *given])
    assert main(["data", "check", *words, *given, "--nets.folds=8"]) == 0


def test_a_class_of_one_image_stands_in_the_way_of_pairs_alone(tmp_path: Path):
    words = _folders(tmp_path, all={"big": 30, "few": 10, "only": 1})
    assert main(["data", "check", *words]) == 3
    assert _to_mend(tmp_path) == [
        "1 class of one train image, where a pair needs 2: add images or leave out"
    ]
    single = ["--disentangle.model", "BetaVAE", "--disentangle.data", "ImageDataModule"]
    assert main(["data", "check", *words, *single, "--disentangle.data.batch_size=8"]) == 0
