"""A few labels of each class."""

from __future__ import annotations

import numpy as np
import pytest

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.few_labels import FewLabels
from detaux_pl.data.modules import LabelledDataModule


def module(few: FewLabels | None) -> LabelledDataModule:
    data = LabelledDataModule(DigitScenes(n_train=300, n_val=20, n_test=30), few_labels=few)
    data.setup("fit")
    return data


def test_subsets_are_balanced_nested_and_leave_the_other_splits_alone():
    whole = module(None).dataset
    few = {n: module(FewLabels(n, seed=3)).dataset for n in (2, 7, 15)}
    for n, data in few.items():
        rows = data.rows("train")
        assert np.array_equal(np.bincount(data.labels[rows]), [n] * 10)
        assert np.array_equal(data.labels[rows], whole.labels[rows])
        assert (data.labels[data.rows("unlabelled")] == -1).all()
        both = np.concatenate([rows, data.rows("unlabelled")])
        assert np.array_equal(np.sort(both), whole.rows("train"))
        for split in ("val", "test"):
            assert np.array_equal(data.rows(split), whole.rows(split))
            assert np.array_equal(data.labels[data.rows(split)], whole.labels[whole.rows(split)])
    assert set(few[2].rows("train")) < set(few[7].rows("train")) < set(few[15].rows("train"))
    other = module(FewLabels(7, seed=4)).dataset
    assert not np.array_equal(other.rows("train"), few[7].rows("train"))


def test_forgetting_twice_is_as_once():
    data = module(FewLabels(5))
    before = data.dataset.rows("train")
    data.setup("test")
    assert np.array_equal(data.dataset.rows("train"), before)
    assert np.array_equal(data.targets[:, 0].numpy() >= 0, data.dataset.splits != 3)


def test_more_labels_than_there_are_and_too_few_are_refused():
    least = np.bincount(module(None).dataset.labels[:300]).min()
    with pytest.raises(UserError, match=f"asks for 200 labels .* give at most {least}"):
        module(FewLabels(200))
    with pytest.raises(ValueError, match="per_class is 1: give at least 2"):
        FewLabels(1)


def test_a_class_of_one_image_leaves_no_number_to_give():
    scenes = DigitScenes(n_train=300, n_val=20, n_test=30)
    scenes.setup()
    threes = scenes.rows("train")[scenes.labels[scenes.rows("train")] == 3]
    scenes.splits = scenes.splits.copy()
    scenes.splits[threes[1:]] = 2
    with pytest.raises(UserError, match="has 1 of 3: 2 are the least, so add images of that class"):
        FewLabels(5).apply(scenes)
