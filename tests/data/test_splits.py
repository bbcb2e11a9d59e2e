from __future__ import annotations

import numpy as np
import pytest

from detaux_pl.data.splits import draw_missing, hold_out

_VAL = [3, 23, 44, 57, 64, 68, 69, 96]
_TEST = [0, 5, 9, 11, 12, 21, 27, 35, 42, 50, 51, 63, 65, 73, 77, 79, 85, 88, 91, 92]
"""What has been drawn since the first release."""


def _train(n: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.zeros(n, dtype=np.int8)


def test_share_of_every_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    labels = np.random.default_rng(0).permutation(labels)
    splits = _train(160)
    hold_out(splits, labels, "val", 0.1, np.random.default_rng(0))
    assert np.bincount(labels[splits == 1]).tolist() == [10, 5, 1]
    hold_out(splits, labels, "test", 0.5, np.random.default_rng(0))
    assert np.bincount(labels[splits == 2]).tolist() == [45, 22, 4]  # halves go to the even one
    assert np.bincount(labels[splits == 0]).tolist() == [45, 23, 5]


def test_two_of_each_class_stay() -> None:
    labels = np.repeat([0, 1, 2, 7], [1, 2, 3, 100])
    splits = _train(106)
    hold_out(splits, labels, "test", 0.99, np.random.default_rng(0))
    assert np.bincount(labels[splits == 0], minlength=8)[[0, 1, 2, 7]].tolist() == [1, 2, 2, 2]


def test_no_class_that_has_images_to_spare_is_left_out() -> None:
    labels = np.repeat([0, 1, 2, 3], [40, 4, 3, 2])
    splits = _train(49)
    hold_out(splits, labels, "val", 0.1, np.random.default_rng(0))
    assert np.bincount(labels[splits == 1], minlength=4).tolist() == [4, 1, 1, 0]
    none = _train(49)
    hold_out(none, labels, "val", 0.0, np.random.default_rng(0))
    assert not none.any()


def test_where_no_class_was_left_out_the_drawing_is_as_ever() -> None:
    labels = np.random.default_rng(3).permutation(np.repeat([0, 1, 2], [60, 31, 12]))
    splits = _train(103)
    draw_missing(splits, labels, 0.1, 0.2, seed=7)
    assert np.flatnonzero(splits == 1).tolist() == _VAL
    assert np.flatnonzero(splits == 2).tolist() == _TEST


def test_the_drawing_is_the_seeds() -> None:
    labels = np.arange(1000) % 4
    drawn = []
    for seed in (0, 0, 1):
        splits = _train(1000)
        hold_out(splits, labels, "val", 0.25, np.random.default_rng(seed))
        drawn.append(splits)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).sum() > 200


def test_each_member_is_drawn_as_often() -> None:
    labels = np.repeat([0, 1], [10, 30])
    counts = np.zeros(40)
    for seed in range(400):
        splits = _train(40)
        hold_out(splits, labels, "val", 0.2, np.random.default_rng(seed))
        counts += splits == 1
    assert counts.sum() == 400 * 8
    assert np.abs(counts / 400 - 0.2).max() < 0.09  # 4.5 standard deviations


def test_other_splits_are_left_alone() -> None:
    splits = np.array([0, 0, 0, 0, 1, 2, 2], dtype=np.int8)
    hold_out(splits, np.zeros(7, dtype=np.int64), "test", 0.5, np.random.default_rng(0))
    assert splits[4:].tolist() == [1, 2, 2]
    assert np.bincount(splits).tolist() == [2, 1, 4]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_share_outside_its_range(share: float) -> None:
    with pytest.raises(ValueError, match=r"the share of val is .*: give a number in \[0, 1\)"):
        hold_out(_train(4), np.zeros(4, dtype=np.int64), "val", share, np.random.default_rng(0))


def test_only_missing_splits_are_drawn() -> None:
    labels = np.zeros(100, dtype=np.int64)
    both = _train(100)
    draw_missing(both, labels, 0.1, 0.2, seed=0)
    assert np.bincount(both).tolist() == [72, 8, 20]
    given = _train(100)
    given[:5] = 2
    draw_missing(given, labels, 0.2, 0.2, seed=0)
    assert np.bincount(given).tolist() == [76, 19, 5]
    assert (given[:5] == 2).all()
