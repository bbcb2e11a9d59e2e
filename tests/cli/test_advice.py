"""Data that are nearly right, through the command line: read as meant, or the right advice."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detaux_pl.artifacts.codes import LABELLED
from detaux_pl.artifacts.files import read_json
from detaux_pl.cli.main import main
from detaux_pl.data import read_image
from detaux_pl.data.datasets.hugging_face import HuggingFace
from detaux_pl.data.datasets.image_arrays import ImageArrays
from detaux_pl.data.value_range import Levels
from tests.cli.conftest import CONF

Refused = Callable[[list[str]], str]
pytestmark = pytest.mark.slow  # three dozen inputs, each a command

_HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 40


@pytest.fixture
def images() -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., list[str]]:
    """Give the words that check a data set of a class with its arguments."""

    def words(kind: str, *args: str, **given: Any) -> list[str]:
        given = {"cache_dir": str(tmp_path / "cache"), "image_size": 16, **given}
        settings = yaml.safe_load((CONF / "chain.yaml").read_text())
        settings["dataset"] = {"class_path": kind, "init_args": given}
        for stage in ("disentangle", "multitask"):
            settings[stage]["data"] = {"init_args": {"batch_size": 4}}
        path = tmp_path / "chain.yaml"
        path.write_text(yaml.safe_dump(settings))
        return ["data", "check", "--config", str(path), "--run_dir", str(tmp_path / "run"), *args]

    return words


def _report(tmp_path: Path) -> Any:
    return read_json(tmp_path / "run" / "data" / "check.json")


def _totals(tmp_path: Path) -> list[int]:
    return [sum(row[split] for row in _report(tmp_path)["counts"].values()) for split in LABELLED]


def _save(images: Any, *folders: Path) -> None:
    """Write images in turn to folders."""
    for k, image in enumerate(images):
        folder = folders[k % len(folders)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{k:02}.png")


def test_a_test_split_without_labels(tmp_path: Path, images: Any, check: Any, error_line: Refused):
    root = tmp_path / "photos"
    _save(images[:30], root / "train" / "a", root / "train" / "b")
    _save(images[30:], root / "Test")
    line = error_line(check("ImageFolder", root=str(root)))
    assert f"10 images of {root / 'Test'} are in no class folder, so that they have no lab" in line
    assert "move them to Test/<class>/, or leave the split out with leave_out: [Test]." in line
    for name in ("Test", "test", "testing"):
        assert main(check("ImageFolder", root=str(root), leave_out=[name])) == 0
        assert _totals(tmp_path) == [22, 2, 6]
    assert "leave_out names 'tset', but" in error_line(
        check("ImageFolder", root=str(root), leave_out=["tset"])
    )
    assert "give a list of splits, such as [test], without train" in error_line(
        check("ImageFolder", root=str(root), leave_out=["training"])
    )


def test_the_root_is_a_floor_too_high_or_too_low(
    tmp_path: Path, images: Any, check: Any, error_line: Refused
):
    photos = tmp_path / "data" / "photos"
    _save(images, photos / "a", photos / "b")
    line = error_line(check("ImageFolder", root=str(tmp_path / "data")))
    assert f"{tmp_path / 'data'} has one folder only, photos, but {photos} has 2: a; b" in line
    assert f"give {photos} as the root" in line
    line = error_line(check("ImageFolder", root=str(photos / "a")))
    assert f"move them to <class>/, or give {photos} if a is a class." in line
    inner = tmp_path / "split" / "train"
    _save(images, inner / "images" / "a", inner / "images" / "b")
    line = error_line(check("ImageFolder", root=str(tmp_path / "split")))
    assert f"{inner / 'images'} has 2: a; b: move them up to {inner}" in line


def test_heif_is_named_where_it_cannot_be_read(
    tmp_path: Path, images: Any, check: Any, error_line: Refused, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    read_image.register_heif.cache_clear()
    root = tmp_path / "photos"
    _save(images, root / "a", root / "b")
    (root / "a" / "phone.HEIC").write_bytes(_HEIC)
    assert main(check("ImageFolder", root=str(root))) == 3
    (found,) = [each for each in _report(tmp_path)["findings"] if each["mend"]]
    hint = 'pip install "detaux_pl[heif]", or save it as JPEG or PNG'
    assert found["what"] == f"1 HEIF image is left out, for want of pillow-heif: {hint}"
    assert found["names"] == [str(root / "a" / "phone.HEIC")]
    (tmp_path / "phone" / "a").mkdir(parents=True)
    (tmp_path / "phone" / "a" / "x.heic").write_bytes(_HEIC)
    line = error_line(check("ImageFolder", root=str(tmp_path / "phone")))
    assert f"there are 1 HEIF images in {tmp_path / 'phone'}" in line
    assert hint in line
    (root / "a" / "phone.HEIC").rename(root / "a" / "phone.jpg")  # as some phones send it
    assert main(check("ImageFolder", root=str(root))) == 3
    (found,) = [each for each in _report(tmp_path)["findings"] if each["mend"]]
    assert found["names"] == [
        f"{root / 'a' / 'phone.jpg'}: it is HEIF, which needs pillow-heif: {hint}"
    ]


def test_heif_is_read_by_the_optional_package(
    tmp_path: Path, images: Any, check: Any, monkeypatch: pytest.MonkeyPatch
):
    """What the package does: it registers a reader with Pillow."""
    package = ModuleType("pillow_heif")

    def register_heif_opener() -> None:
        def open_(file: Any, name: Any = None) -> Image.Image:
            file.close()
            return Image.new("RGB", (16, 16), "red")

        Image.register_open("TRIAL", open_, lambda head: head[4:12] == b"ftypheic")
        Image.register_extension("TRIAL", ".heic")

    package.register_heif_opener = register_heif_opener  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    read_image.register_heif.cache_clear()
    root = tmp_path / "photos"
    _save(images, root / "a", root / "b")
    (root / "a" / "phone.heic").write_bytes(_HEIC)
    try:
        assert main(check("ImageFolder", root=str(root))) == 0
        assert sum(_totals(tmp_path)) == 41
    finally:
        read_image.register_heif.cache_clear()
        Image.OPEN.pop("TRIAL")
        Image.ID.remove("TRIAL")
        Image.EXTENSION.pop(".heic")


def test_an_image_of_too_many_pixels_is_a_matter_of_a_setting(
    tmp_path: Path, images: Any, check: Any, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "photos"
    _save(images, root / "a", root / "b")
    Image.new("1", (200, 100)).save(root / "a" / "map.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # Pillow itself would refuse it
    assert main(check("ImageFolder", root=str(root), max_pixels=19_999)) == 3
    (found,) = [each for each in _report(tmp_path)["findings"] if each["mend"]]
    assert (
        "it has 20,000 pixels, more than max_pixels (19,999): raise max_pixels"
        in (found["names"][0])
    )
    assert main(check("ImageFolder", root=str(root), max_pixels=20_000)) == 0
    assert Image.MAX_IMAGE_PIXELS == 5000
    stored = io.BytesIO()
    Image.new("1", (200, 100)).save(stored, "PNG")
    for limit, text in ((19_999, "it has 20,000 pixels, more than"), (20_000, None)):
        reader = HuggingFace("x", "y", max_pixels=limit)
        with read_image.unguarded():
            got = reader._decode({"bytes": stored.getvalue(), "path": None}, Levels())
        assert text in got if text else isinstance(got, np.ndarray)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (lambda y: y[:, None], ("0", "1")),
        (lambda y: y.astype(float), ("0", "1")),
        (lambda y: y + 0.5, ("0.5", "1.5")),
        (lambda y: np.array(["ja", "nein"])[y][:, None], ("ja", "nein")),
    ],
    ids=["(N, 1)", "whole floats", "floats", "strings of (N, 1)"],
)
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_labels_of_arrays(
    tmp_path: Path, images: Any, check: Any, labels: Any, names: tuple[str, ...], suffix: str
):
    path = tmp_path / f"mine{suffix}"
    y = labels(np.arange(40) % 2)
    if suffix == ".npz":
        np.savez(path, images=images, y=y)
    else:
        import h5py

        with h5py.File(path, "w") as file:
            file["images"] = images
            file["y"] = y.astype("S4") if y.dtype.kind == "U" else y
    assert main(check("ImageArrays", path=str(path), principal="y")) == 0
    counts = _report(tmp_path)["counts"]
    assert tuple(counts) == names
    assert [sum(row.values()) for row in counts.values()] == [20, 20]


def test_labels_of_arrays_that_are_none(
    tmp_path: Path, images: Any, check: Any, error_line: Refused
):
    path = tmp_path / "mine.npz"
    y = np.arange(40) % 2
    for labels, text in (
        (np.eye(2)[y], "of one column per class give the number of the largest"),
        (np.where(y, 1.0, np.nan), "has NaN or infinite labels of 20 images"),
        (y.astype(complex), "is complex128: labels are numbers or strings"),
    ):
        np.savez(path, images=images, y=labels)
        assert text in error_line(check("ImageArrays", path=str(path), principal="y"))


_SPLIT_COLUMNS = [
    ["Train", "Val", "TEST"], ["training", "valid", "testing"], ["0", "1", "2"],
    ["0.0", "1.0", "2.0"],
]  # fmt: skip


@pytest.mark.parametrize("names", _SPLIT_COLUMNS)
def test_splits_are_called_alike_in_tables_and_arrays(
    tmp_path: Path, images: Any, check: Any, names: list[str]
):
    split = np.repeat(names, [28, 6, 6])
    _save(images, tmp_path / "table" / "im")
    _table(tmp_path, ["image", "label", "split"], [
        [f"im/{k:02}.png", k % 2, split[k]] for k in range(40)
    ])  # fmt: skip
    assert main(check("ImageTable", path=str(tmp_path / "table/t.csv"), principal="label")) == 0
    assert _totals(tmp_path) == [28, 6, 6]
    numbers = [split] if names[0] not in ("0", "0.0") else [split, split.astype(float)]
    for each in numbers:
        np.savez(tmp_path / "x.npz", images=images, label=np.arange(40) % 2, split=each)
        path = str(tmp_path / "x.npz")
        assert main(check("ImageArrays", path=path, principal="label")) == 0
        assert _totals(tmp_path) == [28, 6, 6]


def test_splits_of_other_names_can_be_left_out_of_arrays_and_tables(
    tmp_path: Path, images: Any, check: Any, error_line: Refused
):
    split = np.repeat(["train", "extra", "test"], [28, 6, 6])
    path = str(tmp_path / "x.npz")
    np.savez(path, images=images, label=np.r_[np.arange(28) % 2, np.full(12, 7)], split=split)
    words = check("ImageArrays", path=path, principal="label")
    assert "leave it out with leave_out: [extra]" in error_line(words)
    given = {"path": path, "principal": "label", "leave_out": ["extra", "test"]}
    assert main(check("ImageArrays", **given)) == 0
    assert {*_report(tmp_path)["counts"]} == {"0", "1"}
    kept = ImageArrays(path, "label", leave_out=["extra", "test"], cache_dir=tmp_path / "cache")
    kept.setup()
    assert kept.pixels is not None
    np.testing.assert_array_equal(kept.pixels.numpy(), images[:28].transpose(0, 3, 1, 2))
    assert kept.ids.tolist() == list(range(28))
    rest = ImageArrays(path, "label", leave_out=["extra"], cache_dir=tmp_path / "cache")
    rest.setup()
    assert rest.pixels is not None
    np.testing.assert_array_equal(
        rest.pixels.numpy(), images[np.r_[:28, 34:40]].transpose(0, 3, 1, 2)
    )
    assert rest.splits.tolist().count(2) == 6
    _save(images, tmp_path / "table" / "im")
    rows = [[f"im/{k:02}.png", k % 2 if k < 28 else "", split[k]] for k in range(40)]
    _table(tmp_path, ["image", "label", "split"], rows)
    table = {"path": str(tmp_path / "table" / "t.csv"), "principal": "label"}
    assert "leave the split out with leave_out: [extra]" in error_line(
        check("ImageTable", **table, columns=[], leave_out=["test"])
    )
    assert main(check("ImageTable", **table, leave_out=["test", "extra"])) == 0
    assert sum(_totals(tmp_path)) == 28
    assert "without a column of splits, has no split" in error_line(
        check("ImageTable", **table, split_column=None, leave_out=["test"])
    )


def _table(tmp_path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    (tmp_path / "table").mkdir(exist_ok=True)
    with (tmp_path / "table" / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def test_rows_of_a_table_without_labels_are_of_one_split(
    tmp_path: Path, images: Any, check: Any, error_line: Refused
):
    _save(images, tmp_path / "table" / "im")
    rows = [[f"im/{k:02}.png", k % 2 if k < 30 else "", "train" if k < 30 else "test"]
            for k in range(40)]  # fmt: skip
    _table(tmp_path, ["image", "label", "split"], rows)
    given = {"path": str(tmp_path / "table" / "t.csv"), "principal": "label"}
    line = error_line(check("ImageTable", **given))
    assert "fill it in or remove them, or leave the split out with leave_out: [test]." in line
    rows[0][1] = ""
    _table(tmp_path, ["image", "label", "split"], rows)
    line = error_line(check("ImageTable", **given))
    assert line.endswith(
        "fill it in or remove them. With unlabelled: true clusters are found among them, too."
    )


def test_paths_of_a_table_without_suffix_and_out_of_its_folder(
    tmp_path: Path, images: Any, check: Any, error_line: Refused
):
    _save(images, tmp_path / "elsewhere")
    rows = [[f"../elsewhere/{k:02}", k % 2] for k in range(20)]
    rows += [[f"{tmp_path}/elsewhere/{k:02}.png", k % 2] for k in range(20, 40)]
    _table(tmp_path, ["image", "label"], rows)
    given = {"path": str(tmp_path / "table" / "t.csv"), "principal": "label"}
    assert main(check("ImageTable", **given)) == 0
    assert sum(_totals(tmp_path)) == 40
    Image.fromarray(images[0]).save(tmp_path / "elsewhere" / "00.bmp")
    line = error_line(check("ImageTable", **given))
    assert "lists ../elsewhere/00, which may be 00.bmp or 00.png: give the suffix." in line


@pytest.mark.parametrize("name", ["1", "on", "No", "007", "2024-01-02", "1_000", "0x1F"])
def test_a_column_is_called_as_it_is_written_in_yaml(
    tmp_path: Path, images: Any, check: Any, name: str
):
    _save(images, tmp_path / "table" / "im")
    rows = [[f"im/{k:02}.png", k % 2, k % 4] for k in range(40)]
    _table(tmp_path, ["image", name, "yes"], rows)
    words = check(
        "ImageTable", path=str(tmp_path / "table" / "t.csv"), principal="NAME", columns=["OTHER"]
    )
    config = Path(words[3])
    config.write_text(config.read_text().replace("NAME", name).replace("OTHER", "yes"))
    assert main(words) == 0
    assert _report(tmp_path)["principal"] == name
    assert _report(tmp_path)["other_factors"] == {"yes": 4}


def test_another_class_does_not_take_over_where_the_data_were(
    tmp_path: Path, images: Any, check: Any
):
    root = tmp_path / "photos"
    _save(images, root / "a", root / "b")
    _save(images, tmp_path / "table" / "im")
    _table(tmp_path, ["image", "label"], [[f"im/{k:02}.png", k % 2] for k in range(40)])
    words = ["--dataset", "ImageTable", "--dataset.path", str(tmp_path / "table" / "t.csv")]
    words = check("ImageFolder", *words, "--dataset.principal", "label", root=str(root))
    assert main(words) == 0
    assert _report(tmp_path)["dataset"] == "ImageTable"


def _hugging_face(
    path: Path, images: Any, labels: dict[str, list[Any]], kind: str = "class"
) -> Any:
    datasets = pytest.importorskip("datasets")
    feature = datasets.ClassLabel(names=["a", "b"]) if kind == "class" else datasets.Value(kind)
    features = datasets.Features(image=datasets.Image(), label=feature)
    parts, start = datasets.DatasetDict(), 0
    for split, column in labels.items():
        stored = []
        for image in images[start : start + len(column)]:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            stored.append({"bytes": buffer.getvalue(), "path": None})
        values = {"image": stored, "label": column}
        parts[split] = datasets.Dataset.from_dict(values, features)
        start += len(column)
    parts.save_to_disk(str(path))
    return parts


def test_a_split_of_hugging_face_without_labels(
    tmp_path: Path, images: Any, check: Any, error_line: Refused
):
    labels = {"Train": [k % 2 for k in range(30)], "test": [-1] * 10}
    _hugging_face(tmp_path / "hf", images, labels)
    given = {"path": str(tmp_path / "hf"), "principal": "label"}
    line = error_line(check("HuggingFace", **given))
    assert "10 images have no label in column 'label' (the first is test/0000000); " in line
    assert "leave the split out with leave_out: [test]" in line
    assert main(check("HuggingFace", **given, leave_out=["test"])) == 0
    assert _totals(tmp_path) == [22, 2, 6]


def test_labels_of_hugging_face_that_are_floats(tmp_path: Path, images: Any, check: Any):
    labels = {"train": [float(k % 2) for k in range(30)], "extra": [5.0] * 10}
    _hugging_face(tmp_path / "hf", images, labels, "float64")
    given = {"path": str(tmp_path / "hf"), "principal": "label", "leave_out": ["extra"]}
    assert main(check("HuggingFace", **given)) == 0
    assert {*_report(tmp_path)["counts"]} == {"0", "1"}


def test_images_in_parquet(
    tmp_path: Path, images: Any, check: Any, error_line: Refused, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("pyarrow")
    parts = _hugging_face(tmp_path / "hf", images, {"train": [k % 2 for k in range(40)]})
    path = tmp_path / "mine.parquet"
    parts["train"].to_parquet(str(path))
    line = error_line(check("ImageTable", path=str(path), principal="label"))
    assert "column 'image'" in line
    assert (
        f"read it with --dataset HuggingFace --dataset.path {path} --dataset.principal label"
        in (line)
    )
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    assert main(check("HuggingFace", path=str(path), principal="label")) == 0
    first = HuggingFace(path, "label", image_size=16, cache_dir=tmp_path / "cache")
    first.setup()
    assert first.pixels is not None
    np.testing.assert_array_equal(first.pixels.numpy(), images.transpose(0, 3, 1, 2))
    moved = tmp_path / "elsewhere" / "data" / "train-00000-of-00001.parquet"
    moved.parent.mkdir(parents=True)
    path.rename(moved)
    folder = HuggingFace(moved.parents[1], "label", image_size=16, cache_dir=tmp_path / "cache")
    folder.describe()
    assert folder.fingerprint() == first.fingerprint()
    assert folder.cache.complete  # where it lies is no content
