from __future__ import annotations

import io
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.hugging_face import HuggingFace
from tests.data.written_arrays import HALVES, arrays, write_hugging_face

datasets = pytest.importorskip("datasets")


def _dataset(path: Path, principal: str = "label", **arguments: Any) -> HuggingFace:
    settings = {"image_size": 16, "cache_dir": path.parent / "cache", **arguments}
    return HuggingFace(str(path), principal, **settings)


def _png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (16, 16), level).save(buffer, "PNG")
    return buffer.getvalue()


def _noise() -> bytes:
    buffer = io.BytesIO()
    levels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def _save(path: Path, n: int = 12, /, **columns: Any) -> Path:
    """Save grey images with other columns, given as features and values."""
    images = [{"bytes": _png(row), "path": None} for row in range(n)]
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    values = {"image": images, "label": [row % 2 for row in range(n)]}
    for name, (feature, column) in columns.items():
        features[name], values[name] = feature, column
    datasets.Dataset.from_dict(values, datasets.Features(features)).save_to_disk(str(path))
    return path


def test_given_splits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images, labels = write_hugging_face(tmp_path / "mine", 60, 21, 30)
    capfd.readouterr()
    dataset = _dataset(tmp_path / "mine")
    dataset.setup()
    assert capfd.readouterr() == ("", "")
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels.permute(0, 2, 3, 1).numpy(), images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert np.bincount(dataset.splits).tolist() == [60, 21, 30]
    assert dataset.ids[[0, 29, 30, 89, 90]].tolist() == [
        "test/0000000", "test/0000029", "train/0000000", "train/0000059", "validation/0000000",
    ]  # fmt: skip
    assert (np.sort(dataset.ids) == dataset.ids).all()
    assert dataset.splits[[0, 30, 90]].tolist() == [2, 0, 1]
    assert dataset.factor_names == ("label", "half")
    assert dataset.factor_sizes == (3, 2)
    assert dataset.value_names == {"label": ("class 0", "class 1", "class 2"), "half": HALVES}
    halves = arrays(111)["half"]
    np.testing.assert_array_equal(np.array(HALVES)[dataset.factor("half")], halves)
    dataset.check()


def test_missing_splits_are_drawn(tmp_path: Path) -> None:
    write_hugging_face(tmp_path / "mine", 120)
    dataset = _dataset(tmp_path / "mine", "half")
    dataset.describe()
    assert abs(int((dataset.splits == 2).sum()) - 24) <= 1
    assert abs(int((dataset.splits == 1).sum()) - 10) <= 1
    assert not (tmp_path / "cache").exists()


def test_a_single_data_set(tmp_path: Path) -> None:
    path = _save(tmp_path / "mine")
    dataset = _dataset(path, channels=1, test_share=0.34)
    dataset.setup()
    assert dataset.images(torch.arange(12))[:, 0, 3, 3].tolist() == list(range(12))
    assert dataset.ids[11] == "train/0000011"
    assert np.bincount(dataset.splits).tolist() == [6, 2, 4]  # of six: two stay, one is in val


def test_a_copy_finds_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path / "mine")
    first = _dataset(path)
    first.setup()
    shutil.copytree(path, tmp_path / "copy")
    monkeypatch.setattr(HuggingFace, "render", None)
    copy = _dataset(tmp_path / "copy")
    copy.setup()
    unpickled = pickle.loads(pickle.dumps(first))
    rows = torch.tensor([11, 0, 3])
    assert torch.equal(copy.images(rows), first.images(rows))
    assert torch.equal(unpickled.images(rows), first.images(rows))


def test_columns_that_are_factors(tmp_path: Path) -> None:
    value = datasets.Value
    path = _save(
        tmp_path / "mine",
        age=(value("int16"), [7, 30, -1] * 4),
        flag=(value("bool"), [True, True, False] * 4),
        gap=(value("string"), ["a", None, "b"] * 4),
        name=(value("string"), [f"{row}.png" for row in range(12)]),
        weight=(value("float32"), [0.5, 1.0, 2.0] * 4),
        box=(datasets.Sequence(value("int64")), [[1, 2]] * 12),
        kind=(datasets.ClassLabel(names=["x", "y", "z", "never"]), [0, 1, 2] * 4),
    )
    dataset = _dataset(path)
    dataset.describe()
    assert dataset.factor_names == ("label", "age", "flag", "kind")
    assert dataset.factor_sizes == (2, 3, 2, 4)
    assert dataset.value_names["age"] == ("-1", "7", "30")
    assert dataset.factor("age").tolist() == [1, 2, 0] * 4
    asked = _dataset(path, columns=["name"])
    asked.describe()
    assert asked.factor_names == ("label", "name")
    with pytest.raises(UserError, match=r"4 images have no label in column 'gap'"):
        _dataset(path, columns=["gap"]).describe()
    with pytest.raises(UserError, match=r"column 'box' has no labels.*'weight': float32"):
        _dataset(path, "box").describe()
    weighed = _dataset(path, "weight")
    weighed.describe()
    assert weighed.value_names["weight"] == ("0.5", "1.0", "2.0")


def test_unlabelled_images_are_named(tmp_path: Path) -> None:
    path = _save(tmp_path / "mine", kind=(datasets.ClassLabel(names=["x", "y"]), [0, 1, -1] * 4))
    with pytest.raises(UserError, match=r"4 images have no .* \(the first is train/0000002\)"):
        _dataset(path, "kind").describe()


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int8"))
    stored = [{"bytes": _png(row), "path": None} for row in range(6)]
    stored[2]["bytes"] = _noise()[:600]
    stored[4]["bytes"] = b"text"
    content = {"image": [*stored[:5], None], "label": [0, 1] * 3}
    datasets.Dataset.from_dict(content, features).save_to_disk(str(tmp_path / "mine"))
    dataset = _dataset(tmp_path / "mine")
    with pytest.raises(UserError) as caught:
        dataset.setup()
    message = str(caught.value)
    assert "3 of 6 images" in message
    assert "train/0000002 (" in message
    assert "train/0000004 (it is no image)" in message
    assert "train/0000005 (there is no image)" in message
    assert [str(bad.path) for bad in dataset.unreadable] == [
        "train/0000002", "train/0000004", "train/0000005",
    ]  # fmt: skip


def test_wrong_columns_and_splits_are_named(tmp_path: Path) -> None:
    path = _save(tmp_path / "mine")
    held = r"Its columns are 'image': PIL\.Image\.Image, 'label': int64\."
    other = "give another as principal"
    with pytest.raises(UserError, match=rf"mine: it has no column 'age': {other}\. {held}"):
        _dataset(path, "age").describe()
    other = "give another as image_column"
    with pytest.raises(UserError, match=rf"no column of images 'picture': {other}\. {held}"):
        _dataset(path, image_column="picture").describe()
    parts = datasets.DatasetDict({"unsupervised": datasets.load_from_disk(str(path))})
    parts.save_to_disk(str(tmp_path / "other"))
    with pytest.raises(UserError, match="it has a split 'unsupervised': save it with splits named"):
        _dataset(tmp_path / "other").describe()


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the folder .*absent does not exist: give one that"):
        _dataset(tmp_path / "absent").describe()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty cannot be read as a Hugging Face data set"):
        _dataset(tmp_path / "empty").describe()
    path = _save(tmp_path / "mine")
    shard = next(path.glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match=r"mine cannot be read as a Hugging Face data set"):
        _dataset(path).describe()


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, subset: str | None) -> None:
        raise RuntimeError(f"no network\nfor {path} {subset}")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message = r"somebody/pictures is no folder .*hub \(no network for somebody/pictures small\)"
    with pytest.raises(UserError, match=message):
        HuggingFace("somebody/pictures", "label", subset="small").describe()


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "detaux_pl\[hf\]"'):
        _dataset(tmp_path).describe()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"channels": 4}, "channels is 4"),
        ({"val_share": -0.1}, r"share of val is -0\.1"),
    ],
)
def test_arguments_outside_their_range(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _dataset(tmp_path, **arguments)


@pytest.mark.parametrize("kind", ["classes", "numbers", "strings"])
def test_images_without_a_label(tmp_path: Path, kind: str) -> None:
    feature, values = {
        "classes": (datasets.ClassLabel(names=["cat", "dog", "owl"]), [0, 1, -1]),
        "numbers": (datasets.Value("int64"), [0, 1, -1]),
        "strings": (datasets.Value("string"), ["cat", "dog", None]),
    }[kind]
    parts = {}
    for name, labels in {
        "train": [values[row % 2] for row in range(20)] + [values[2]] * 4,
        "test": [values[row % 2] for row in range(8)],
        "unsupervised": [values[2]] * 10,
    }.items():
        images = [{"bytes": _png(row), "path": None} for row in range(len(labels))]
        room = [None if label == values[2] else row % 3 for row, label in enumerate(labels)]
        content = {"image": images, "label": labels, "room": room}
        features = {"image": datasets.Image(), "label": feature, "room": datasets.Value("int64")}
        parts[name] = datasets.Dataset.from_dict(content, datasets.Features(features))
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "hf"))
    dataset = _dataset(tmp_path / "hf", unlabelled=True)
    dataset.setup()
    dataset.check()
    apart = dataset.rows("unlabelled")
    assert dataset.ids[apart].tolist() == [
        *(f"train/{row:07d}" for row in range(20, 24)),
        *(f"unsupervised/{row:07d}" for row in range(10)),
    ]
    assert (dataset.factors[apart] == -1).all()
    assert dataset.factor_sizes == (3 if kind == "classes" else 2, 3)
    assert len(dataset.rows("test")) == 8
    assert len(dataset.rows("train")) + len(dataset.rows("val")) == 20
    with pytest.raises(UserError, match="it has a split 'unsupervised': save it with"):
        _dataset(tmp_path / "hf").describe()
    if kind != "numbers":
        with pytest.raises(UserError, match=r"4 images have no label.*; unlabelled: true takes"):
            _dataset(tmp_path / "hf", leave_out=["unsupervised"]).describe()


def test_a_split_of_another_name_with_labels_is_refused(tmp_path: Path) -> None:
    _save(tmp_path / "one")
    part = datasets.load_from_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": part, "extra": part}).save_to_disk(str(tmp_path / "hf"))
    with pytest.raises(UserError, match="it has a split 'extra': save it with splits named"):
        _dataset(tmp_path / "hf", unlabelled=True).describe()
