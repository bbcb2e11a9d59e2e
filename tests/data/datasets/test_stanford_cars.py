from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.stanford_cars import StanfordCars
from tests.data.written import write_cars


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_cars(tmp_path / "cars")
    return tmp_path / "cars"


def _dataset(root: Path, **given: Any) -> StanfordCars:
    return StanfordCars(root, image_size=16, cache_dir=root.parent / "cache", **given)


def test_models_and_official_splits(root: Path) -> None:
    dataset = _dataset(root)
    dataset.setup()
    assert dataset.factor_sizes == (4,)
    assert dataset.value_names["model"][2] == "Maker Model2 Sedan 2002"
    assert dataset.ids[0] == "cars_test/00001.jpg"
    assert dataset.ids[-1] == "cars_train/00040.jpg"
    np.testing.assert_array_equal(dataset.splits == 2, np.char.startswith(dataset.ids, "cars_test"))
    assert np.bincount(dataset.splits).tolist() == [36, 4, 24]  # one of ten of each model
    assert np.bincount(dataset.labels[dataset.rows("val")]).tolist() == [1] * 4
    annotations = scipy.io.loadmat(root / "stanford_cars" / "devkit" / "cars_train_annos.mat")
    for annotation in annotations["annotations"][0]:
        row = dataset.ids.tolist().index(f"cars_train/{annotation['fname'][0]}")
        assert dataset.labels[row] == annotation["class"][0, 0] - 1


def test_images_are_stretched_unless_told_otherwise(root: Path) -> None:
    stretched, cut = _dataset(root), _dataset(root, fit="crop")
    for dataset, box in ((stretched, (0, 0, 48, 30)), (cut, (9, 0, 39, 30))):
        dataset.setup()
        assert dataset.pixels is not None
        path = root / "stanford_cars" / dataset.ids[5]
        with Image.open(path) as image:
            expected = image.resize((16, 16), Image.Resampling.BILINEAR, box)
        np.testing.assert_array_equal(
            dataset.pixels[5].numpy(), np.asarray(expected).transpose(2, 0, 1)
        )


def test_small_classes_stay_in_train(tmp_path: Path) -> None:
    write_cars(tmp_path, n_models=2, n_train=2, n_test=2)
    dataset = StanfordCars(tmp_path, val_share=0.5)
    dataset.describe()
    assert np.bincount(dataset.splits).tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    "part",
    ["devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"],
)
def test_missing_file_is_named(root: Path, part: str) -> None:
    (root / "stanford_cars" / part).unlink()
    message = rf"cars/stanford_cars: {part} is missing\. Their site is gone: get a copy elsewhere"
    with pytest.raises(UserError, match=message):
        _dataset(root).describe()


def test_download_says_that_it_is_gone(root: Path) -> None:
    with pytest.raises(
        UserError, match=r"are missing, and torchvision cannot download \(.*put dev"
    ):
        StanfordCars(root / "nowhere", download=True).describe()
    _dataset(root, download=True).describe()  # there is nothing to download


@pytest.mark.parametrize(
    "part",
    ["devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"],
)
def test_damaged_annotations_are_named(root: Path, part: str) -> None:
    path = root / "stanford_cars" / part
    whole = path.read_bytes()
    for content in (b"", b"<html>404</html>", whole[:150], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="the annotations cannot be read"):
            _dataset(root).describe()
    scipy.io.savemat(path, {"something": 1})
    with pytest.raises(UserError, match="the annotations cannot be read"):
        _dataset(root).describe()


def test_annotations_of_another_release_are_named(root: Path) -> None:
    names = np.array([["one", "two"]], dtype=object)
    scipy.io.savemat(root / "stanford_cars" / "devkit" / "cars_meta.mat", {"class_names": names})
    with pytest.raises(UserError, match=r"cars_meta\.mat, which has 2, does not"):
        _dataset(root).describe()


def test_annotations_without_labels_are_named(root: Path) -> None:
    # The original devkit holds such a file for the test images.
    annotations = np.empty((1, 2), dtype=[("bbox_x1", object), ("fname", object)])
    annotations[0] = [(1, "00001.jpg"), (1, "00002.jpg")]
    path = root / "stanford_cars" / "cars_test_annos_withlabels.mat"
    scipy.io.savemat(path, {"annotations": annotations})
    with pytest.raises(UserError, match="the annotations cannot be read"):
        _dataset(root).describe()


def test_missing_image_is_named(root: Path) -> None:
    (root / "stanford_cars" / "cars_train" / "00007.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 64 .*cars_train/00007\.jpg \(it does not exist\)"):
        _dataset(root).prepare()


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the share of val is -0\.1"):
        StanfordCars(tmp_path, val_share=-0.1)
