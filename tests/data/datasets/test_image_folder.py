from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.image_folder import ImageFolder
from tests.data.written import write_class_folders


def _described(root: Path, **given: Any) -> ImageFolder:
    dataset = ImageFolder(root, **given)
    dataset.describe()
    return dataset


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folder_per_class(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "images", n=20)
    dataset = ImageFolder(tmp_path / "images", image_size=8, cache_dir=tmp_path / "cache")
    dataset.setup()
    assert dataset.factor_names == ("label",)
    assert dataset.value_names == {"label": ("bird", "cat", "dog")}
    assert dataset.ids[[0, 20, 59]].tolist() == ["bird/00.png", "cat/00.png", "dog/19.png"]
    assert dataset.labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert np.bincount(dataset.splits).tolist() == [42, 6, 12]  # of a class: 4 of 20, 2 of 16
    for split, n in (("train", 14), ("val", 2), ("test", 4)):
        assert np.bincount(dataset.labels[dataset.rows(split)]).tolist() == [n] * 3
    assert dataset.pixels is not None
    tint = dataset.pixels.float().mean((2, 3)).numpy()
    assert (tint.argmax(axis=1) == dataset.labels).all()  # red, green and blue
    other = _described(tmp_path / "images", seed=1)
    assert (other.splits != dataset.splits).any()


def test_deeper_folders_and_other_formats(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "images", ("a",), suffix=".JPG")
    write_class_folders(tmp_path / "images" / "b", ("x", "y"), n=3, suffix=".webp")
    dataset = _described(tmp_path / "images")
    assert dataset.value_names == {"label": ("a", "b")}
    assert np.bincount(dataset.labels).tolist() == [10, 6]
    assert dataset.ids[-1] == "b/y/02.webp"


def test_principal_names_the_factor(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    assert _described(tmp_path, principal="species").info.names == ("species",)


def test_one_channel(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "images", n=2)
    dataset = ImageFolder(tmp_path / "images", channels=1, cache_dir=tmp_path / "cache")
    dataset.setup()
    assert dataset.pixels is not None
    assert dataset.pixels.shape == (6, 1, 64, 64)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_folder_per_split(tmp_path: Path, val: str) -> None:
    for name, n in (("train", 6), (val, 2), ("test", 3)):
        write_class_folders(tmp_path / name, n=n)
    dataset = _described(tmp_path)
    assert np.bincount(dataset.splits).tolist() == [18, 6, 9]
    assert dataset.splits[dataset.ids.tolist().index(f"{val}/dog/01.png")] == 1
    assert dataset.labels[dataset.ids.tolist().index("test/cat/02.png")] == 1


def test_missing_splits_are_drawn_from_train(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", n=20)
    assert np.bincount(_described(tmp_path).splits).tolist() == [42, 6, 12]
    write_class_folders(tmp_path / "test", n=5)
    dataset = _described(tmp_path)
    assert np.bincount(dataset.splits).tolist() == [54, 6, 15]
    np.testing.assert_array_equal(dataset.splits == 2, np.char.startswith(dataset.ids, "test/"))


def test_class_may_be_called_train(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("bus", "car", "train"))
    assert _described(tmp_path).value_names == {"label": ("bus", "car", "train")}


def test_names_beyond_ascii(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "images", ("Äpfel", "りんご"), n=3)
    dataset = ImageFolder(tmp_path / "images", cache_dir=tmp_path / "cache")
    dataset.setup()
    assert dataset.value_names == {"label": ("Äpfel", "りんご")}
    assert dataset.ids[0] == "Äpfel/00.png"


def test_other_files_are_listed(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    others = [
        tmp_path / ".DS_Store", tmp_path / ".hidden", tmp_path / "bird" / "Thumbs.db",
        tmp_path / "cat" / "notes.txt",
    ]  # fmt: skip
    _touch(*others[:1], *others[2:], tmp_path / ".hidden" / "00.png")
    dataset = _described(tmp_path)
    assert dataset.ignored == others
    assert len(dataset) == 30
    assert dataset.n_classes == 3


def test_images_outside_of_classes_are_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "a")
    _touch(tmp_path / "a" / "stray.png")
    with pytest.raises(UserError, match=r"1 images of .*: stray\.png: move them to <class>/\."):
        _described(tmp_path / "a")
    write_class_folders(tmp_path / "b" / "train")
    write_class_folders(tmp_path / "b" / "test")
    _touch(tmp_path / "b" / "train" / "stray.png")
    with pytest.raises(UserError, match=r": train/stray\.png: move them to train/<class>/\."):
        _described(tmp_path / "b")
    _touch(tmp_path / "c" / "1.png", tmp_path / "c" / "2.png")
    with pytest.raises(UserError, match=r"2 images of .*: 1\.png; 2\.png: move them to <class>/"):
        _described(tmp_path / "c")


def test_classes_without_training_images_are_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "a")
    (tmp_path / "a" / "fish").mkdir()
    with pytest.raises(UserError, match=r"has no image of 1 of its 4 classes: fish: add some, or"):
        _described(tmp_path / "a")
    write_class_folders(tmp_path / "b" / "train", ("bird", "cat"))
    write_class_folders(tmp_path / "b" / "test")
    with pytest.raises(UserError, match=r"has no training image of 1 of its 3 classes: dog: add"):
        _described(tmp_path / "b")


def test_mixed_layouts_are_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "a" / "train")
    write_class_folders(tmp_path / "a", ("extra",))
    with pytest.raises(UserError, match=r"the folders train, as of splits, but also extra: give a"):
        _described(tmp_path / "a")
    write_class_folders(tmp_path / "b" / "val")
    with pytest.raises(UserError, match=r"the folders val but no folder train: move the training"):
        _described(tmp_path / "b")


def test_empty_and_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"there is no image in .*: give a folder with a folder per"
    ):
        _described(tmp_path)
    with pytest.raises(UserError, match=r"the folder .*none does not exist: give a folder with a"):
        _described(tmp_path / "none")


def test_one_class_cannot_be_trained_on(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "images", ("cat",), n=3)
    dataset = ImageFolder(tmp_path / "images", cache_dir=tmp_path / "cache")
    dataset.setup()
    with pytest.raises(UserError, match=r"has one class only \(0\) of 'label'"):
        dataset.check()


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the share of val is 1\.5"):
        ImageFolder(tmp_path, val_share=1.5)
    with pytest.raises(ValueError, match=r"the share of test is -1"):
        ImageFolder(tmp_path, test_share=-1)


@pytest.mark.parametrize("place", ["more", "train/more", "outside", "link"])
def test_a_folder_without_labels(tmp_path: Path, place: str) -> None:
    root = tmp_path / "images"
    write_class_folders(root / "train" if "/" in place else root, n=20)
    settings = {"cache_dir": tmp_path / "cache", "image_size": 8}
    plain = _described(root, **settings)
    folder = tmp_path / place if place in ("outside", "link") else root / place
    write_class_folders(folder, ("b", "a/deep"), n=2)
    (folder / "notes.txt").write_text("none")
    if place == "link":
        (root / "link").symlink_to(folder)
    dataset = _described(root, unlabelled=folder if place == "outside" else place, **settings)
    apart = dataset.rows("unlabelled")
    names = ["a/deep/00.png", "a/deep/01.png", "b/00.png", "b/01.png"]
    assert dataset.ids[apart].tolist() == [f"unlabelled/{name}" for name in names]
    assert dataset.ids.tolist() == sorted(dataset.ids.tolist())
    assert dataset.labels[apart].tolist() == [-1] * 4
    assert [path.name for path in dataset.ignored] == ["notes.txt"]
    rest = np.setdiff1d(np.arange(len(dataset)), apart)
    for name in ("ids", "splits", "labels"):
        assert getattr(dataset, name)[rest].tolist() == getattr(plain, name).tolist()
    assert dataset.value_names == plain.value_names
    assert dataset.fingerprint() != plain.fingerprint()
    dataset.setup()
    assert len(dataset.images(torch.from_numpy(apart))) == 4


def test_a_class_that_is_called_unlabelled_is_one_as_ever(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ("cat", "dog", "unlabelled"), n=20)
    plain = _described(tmp_path)
    assert plain.value_names == {"label": ("cat", "dog", "unlabelled")}
    asked = _described(tmp_path, unlabelled="unlabelled")
    assert asked.value_names == {"label": ("cat", "dog")}
    assert asked.ids.tolist() == plain.ids.tolist()
    assert asked.rows("unlabelled").tolist() == list(range(40, 60))
