from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.pairs import draw_pairs

_LABELS = st.lists(st.integers(0, 6), min_size=2, max_size=60).filter(lambda x: len(set(x)) > 1)


def _draw(
    labels: list[int], p: float, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return draw_pairs(np.array(labels), p, np.random.default_rng(seed))


@given(labels=_LABELS, p=st.floats(0.0, 1.0), seed=st.integers(0, 1 << 32))
def test_every_sample_is_first_once_and_never_its_own_partner(
    labels: list[int], p: float, seed: int
) -> None:
    first, second = _draw(labels, p, seed)
    assert sorted(first.tolist()) == list(range(len(labels)))
    assert ((second >= 0) & (second < len(labels))).all()
    assert (first != second).all()


@given(labels=_LABELS, seed=st.integers(0, 1 << 32))
def test_the_extremes_of_p_different_hold_without_exception(labels: list[int], seed: int) -> None:
    values = np.array(labels)
    first, second = _draw(labels, 1.0, seed)
    assert (values[first] != values[second]).all()
    first, second = _draw(labels, 0.0, seed)
    alone = np.bincount(values)[values[first]] == 1
    np.testing.assert_array_equal(values[first] == values[second], ~alone)


@given(labels=_LABELS, shift=st.integers(-1000, 1000))
def test_only_the_partition_into_classes_counts(labels: list[int], shift: int) -> None:
    first, second = _draw(labels, 0.5)
    again = _draw([3 * label + shift for label in labels], 0.5)
    np.testing.assert_array_equal(first, again[0])
    np.testing.assert_array_equal(second, again[1])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.875])
def test_share_of_different_pairs(p: float) -> None:
    labels = np.repeat(np.arange(8), 2500)
    first, second = draw_pairs(labels, p, np.random.default_rng(1))
    share = (labels[first] != labels[second]).mean()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / len(labels)) ** 0.5)


def test_partner_is_uniform_over_the_chosen_set() -> None:
    labels, p, draws = np.array([2, 0, 1, 0, 2, 2, 0, 3]), 0.3, 4000
    rng = np.random.default_rng(2)
    counts = np.zeros((len(labels), len(labels)))
    for _ in range(draws):
        np.add.at(counts, draw_pairs(labels, p, rng), 1)
    for i, label in enumerate(labels):
        same = (labels == label) & (np.arange(len(labels)) != i)
        p_other = p if same.any() else 1.0
        expected = np.where(labels != label, p_other / (labels != label).sum(), 0.0)
        expected[same] = (1 - p_other) / max(same.sum(), 1)
        possible = expected > 0
        assert counts[i, ~possible].sum() == 0
        assert chisquare(counts[i, possible], draws * expected[possible]).pvalue > 1e-3


def test_first_samples_come_in_random_order() -> None:
    labels = [0, 1] * 200
    first, _ = _draw(labels, 0.5, seed=0)
    assert not np.array_equal(first, np.arange(400))
    assert abs(np.corrcoef(first, np.arange(400))[0, 1]) < 0.2


def test_same_generator_same_pairs() -> None:
    labels = [0, 1, 1, 0, 2] * 5
    np.testing.assert_array_equal(_draw(labels, 0.5, 3), _draw(labels, 0.5, 3))
    assert (np.array(_draw(labels, 0.5, 3)) != np.array(_draw(labels, 0.5, 4))).any()


def test_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2 classes"):
        _draw([4, 4, 4], 0.5)
