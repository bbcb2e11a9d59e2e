from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.factor_dataset import existing_file, to_uint8


def test_unknown_principal_factor_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'colour' does not exist.*digit, background, location"):
        DigitScenes(principal="colour")


@pytest.mark.parametrize("principal", DigitScenes.factor_names)
def test_principal_factor_gives_labels_and_classes(principal: str) -> None:
    dataset = DigitScenes(principal, n_train=30, n_val=5, n_test=5)
    dataset.setup()
    column = dataset.factor_names.index(principal)
    np.testing.assert_array_equal(dataset.labels, dataset.factors[:, column])
    assert dataset.n_classes == dataset.factor_sizes[column]
    assert dataset.info.principal == principal
    assert len(dataset) == 40


def test_splits_part_the_rows(scenes: DigitScenes) -> None:
    scenes.setup()
    parts = [scenes.rows(split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [50, 20, 31]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(101))


def test_train_split_of_one_class_is_refused(scenes: DigitScenes) -> None:
    scenes.setup()
    scenes.factors[scenes.rows("train"), 0] = 3
    with pytest.raises(UserError, match=r"one class only \(3\) of 'digit'"):
        scenes.check()


def test_empty_train_split_is_refused(scenes: DigitScenes) -> None:
    scenes.setup()
    scenes.splits[:] = 2
    with pytest.raises(UserError, match="no image"):
        scenes.check()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.h5 does not exist: fetch it"):
        existing_file(tmp_path / "absent.h5", "fetch it.")
    with pytest.raises(UserError, match=r"is a folder: fetch it\."):
        existing_file(tmp_path, "fetch it.")
    assert existing_file(Path(__file__), "") == Path(__file__)


def test_floats_become_the_nearest_level() -> None:
    images = np.array([[0.0, 1.0], [0.5, 100.4 / 255]])
    np.testing.assert_array_equal(to_uint8(images, np.arange(2), "x"), [[0, 255], [128, 100]])
    assert to_uint8(np.zeros((0, 3)), np.arange(0), "x").dtype == np.uint8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused_with_the_image(bad: float) -> None:
    images = np.zeros((4, 3, 2, 2))
    images[2, 1, 0, 1] = bad
    with pytest.raises(UserError, match=r"faces\.npy holds NaN.*first in image 17"):
        to_uint8(images, np.array([11, 13, 17, 19]), "faces.npy")


@pytest.mark.parametrize("bad", [-0.1, 255.0])
def test_pixels_outside_the_unit_interval_are_refused(bad: float) -> None:
    with pytest.raises(UserError, match="scale them"):
        to_uint8(np.array([[0.5, bad]]), np.arange(1), "faces.npy")
