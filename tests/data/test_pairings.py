from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.pairings import (
    ChangedFactors,
    GivenPairs,
    Pairing,
    PrincipalPairs,
    SharedFactors,
)
from detaux_pl.data.pairs import draw_pairs

NAMES = ("shape", "hue", "size")


class Table(FactorDataset):
    """Given factor values, no images."""

    factor_names = NAMES
    image_shape = (3, 8, 8)

    def __init__(self, factors: NDArray[np.int64], partners: list[int] | None = None) -> None:
        super().__init__("shape")
        self.factors = factors
        self.factor_sizes = tuple(int(x) for x in factors.max(axis=0) + 1)
        self.ids = np.arange(100, 100 + len(factors))
        self.splits = np.zeros(len(factors), dtype=np.int8)
        self.partners = None if partners is None else np.array(partners)

    def setup(self) -> None:
        pass

    def images(self, rows: Tensor) -> Tensor:
        return torch.zeros(len(rows), *self.image_shape, dtype=torch.uint8)


def _table(values: list[tuple[int, ...]], **more: list[int]) -> Table:
    return Table(np.array(values, dtype=np.int64), **more)


def _draw(pairing: Pairing, dataset: FactorDataset, seed: int = 0) -> NDArray[np.int64]:
    return pairing.draw(dataset, np.arange(len(dataset)), np.random.default_rng(seed))


def _counts(
    pairing: Pairing, dataset: FactorDataset, draws: int, seed: int = 0
) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    counts = np.zeros((len(dataset), len(dataset)))
    for _ in range(draws):
        np.add.at(counts, tuple(pairing.draw(dataset, np.arange(len(dataset)), rng)), 1)
    return counts


def _check_uniform(counts: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    """Compare counts with probabilities, row by row."""
    for row, p in zip(counts, expected, strict=True):
        assert row[p == 0].sum() == 0
        if (p > 0).sum() > 1:
            assert chisquare(row[p > 0], row.sum() * p[p > 0]).pvalue > 1e-4
        else:
            assert row[p > 0] == row.sum()


VALUES = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=2, max_size=40)
SPARSE = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 1, 1), (0, 0, 1), (2, 0, 1), (0, 2, 2)]


def test_principal_pairs_are_those_of_draw_pairs() -> None:
    dataset = _table(SPARSE)
    rows = np.array([1, 2, 3, 5])
    drawn = PrincipalPairs(0.3).draw(dataset, rows, np.random.default_rng(5))
    expected = draw_pairs(dataset.labels[rows], 0.3, np.random.default_rng(5))
    np.testing.assert_array_equal(drawn, rows[np.stack(expected)])


class TestChangedFactors:
    @given(values=VALUES, k=st.integers(1, 3), seed=st.integers(0, 1 << 32))
    def test_at_most_k_factors_change(
        self, values: list[tuple[int, ...]], k: int, seed: int
    ) -> None:
        dataset = _table(values)
        try:
            first, second = _draw(ChangedFactors(k), dataset, seed)
        except UserError:
            assert k < 3
            return
        assert sorted(first.tolist()) == list(range(len(values)))
        changed = (dataset.factors[first] != dataset.factors[second]).sum(axis=1)
        assert changed.max() <= k

    @pytest.mark.parametrize("k", [1, 2])
    @pytest.mark.parametrize("names", [None, ["hue", "size"]])
    def test_distribution_is_that_of_the_definition(self, k: int, names: list[str] | None) -> None:
        dataset = _table(SPARSE)
        columns = [NAMES.index(name) for name in names or NAMES]
        subsets = list(combinations(columns, k))
        n = len(SPARSE)
        expected = np.zeros((n, n))
        for i in range(n):
            for subset in subsets:
                kept = [c for c in range(3) if c not in subset]
                partners = [
                    j
                    for j in range(n)
                    if j != i and all(SPARSE[i][c] == SPARSE[j][c] for c in kept)
                ] or [i]
                for j in partners:
                    expected[i, j] += 1 / len(subsets) / len(partners)
        _check_uniform(_counts(ChangedFactors(k, names), dataset, 4000), expected)

    def test_what_does_not_fit_is_refused(self) -> None:
        dataset = _table(SPARSE)
        for k, factors in ((0, None), (2, ["hue"])):
            with pytest.raises(ValueError, match=f"k is {k}"):
                ChangedFactors(k, factors)
        with pytest.raises(UserError, match=r"k is 4, but Table has 3 factor\(s\)"):
            ChangedFactors(4).check(dataset)
        with pytest.raises(UserError, match=r"factors names 'sise'.*did you mean 'size'"):
            ChangedFactors(1, ["sise"]).check(dataset)
        with pytest.raises(UserError, match=r"no two of the 2 images .* all factors but 1"):
            _draw(ChangedFactors(1), _table([(0, 0, 0), (1, 1, 1)]))


class TestSharedFactors:
    @pytest.mark.parametrize(
        ("shared", "different"),
        [
            (["shape"], []),
            (["shape"], ["size"]),
            (["shape"], ["hue", "size"]),
            ([], ["shape"]),
            ([], ["hue", "size"]),
        ],
    )
    def test_distribution_is_that_of_the_definition(
        self, shared: list[str], different: list[str]
    ) -> None:
        # One of each shape differs from 40 others in a single way: rejection alone would not do.
        values = [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 2), (0, 1, 2), (1, 2, 0)]
        dataset = _table(values)
        same, unlike = ([NAMES.index(name) for name in names] for names in (shared, different))
        n = len(values)
        expected = np.zeros((n, n))
        for i in range(n):
            partners = [
                j
                for j in range(n)
                if j != i
                and all(values[i][c] == values[j][c] for c in same)
                and all(values[i][c] != values[j][c] for c in unlike)
            ]
            if not partners:
                with pytest.raises(UserError, match="has no partner in its split"):
                    _draw(SharedFactors(shared, different), dataset)
                return
            expected[i, partners] = 1 / len(partners)
        _check_uniform(_counts(SharedFactors(shared, different), dataset, 3000), expected)

    def test_rare_partners_are_found_and_uniform(self) -> None:
        dataset = _table([(0, 0, 0)] * 500 + [(0, 1, 0)] * 3)
        first, second = _draw(SharedFactors(["shape"], ["hue"]), dataset)
        hue = dataset.factor("hue")
        assert (hue[first] != hue[second]).all()
        assert sorted(first.tolist()) == list(range(503))
        of_rare = np.bincount(second[first < 500], minlength=503)[500:]
        assert chisquare(of_rare).pvalue > 1e-4

    def test_an_image_without_a_partner_is_named(self) -> None:
        dataset = _table([(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 1, 0)])
        dataset.value_names = {"hue": ("red", "blue")}
        with pytest.raises(UserError) as error:
            _draw(SharedFactors(["shape"], ["hue"]), dataset)
        assert str(error.value) in (
            f"the image {k} has no partner in its split: no other has shape 0 and differs from "
            "hue red; name fewer factors in shared or different."
            for k in (100, 101)
        )
        with pytest.raises(UserError, match="no other has shape 1 and hue 1;"):
            _draw(SharedFactors(["shape", "hue"]), _table([(1, 1, 0), (0, 0, 1), (0, 0, 1)]))

    def test_what_does_not_fit_is_refused(self) -> None:
        for shared, different in (([], None), (["hue"], ["hue"]), (["hue", "hue"], [])):
            with pytest.raises(ValueError, match="each once"):
                SharedFactors(shared, different)
        with pytest.raises(UserError, match=r"different names 'colour'.*shape, hue, size"):
            SharedFactors(["hue"], ["colour"]).check(_table(SPARSE))


class TestGivenPairs:
    def test_each_pair_once_and_either_view_first(self) -> None:
        partners = [3, 2, 1, 0, 5, 4, 7, 6]
        dataset = _table([(0, 0, 0)] * 8, partners=partners)
        rows = np.array([0, 1, 2, 3, 6, 7])
        pairing = GivenPairs()
        assert pairing.n_pairs(dataset, rows) == 3
        rng = np.random.default_rng(0)
        seen = []
        for _ in range(400):
            drawn = pairing.draw(dataset, rows, rng)
            assert drawn.shape == (2, 3)
            assert {frozenset(pair) for pair in drawn.T.tolist()} == {
                frozenset(pair) for pair in ((0, 3), (1, 2), (6, 7))
            }
            seen.append(drawn[0])
        firsts = np.stack(seen)
        for place in range(3):  # any of the six rows may come first, in any pair's place
            assert chisquare(np.bincount(firsts[:, place], minlength=8)[rows]).pvalue > 1e-4

    def test_a_view_of_several_pairs_is_in_each(self) -> None:
        dataset = _table([(0, 0, 0)] * 4, partners=[3, 3, 3, 0])
        assert GivenPairs().n_pairs(dataset, np.arange(4)) == 3

    def test_data_without_pairs_are_refused(self) -> None:
        with pytest.raises(UserError, match="Table does not come in pairs: choose PrincipalPairs"):
            _draw(GivenPairs(), _table(SPARSE))


def test_keys_do_not_overflow() -> None:
    factors = np.random.default_rng(0).integers(0, 1 << 40, (50, 3))
    factors[25:] = factors[:25]
    first, second = _draw(SharedFactors(list(NAMES)), Table(factors))
    np.testing.assert_array_equal(second, (first + 25) % 50)


@pytest.mark.parametrize(
    "pairing", [ChangedFactors(2), SharedFactors(["shape"], ["hue"]), PrincipalPairs()]
)
def test_same_generator_same_pairs(pairing: Pairing) -> None:
    values = np.stack(np.unravel_index(np.arange(60), (3, 4, 5)), axis=1)
    dataset = Table(values)
    np.testing.assert_array_equal(_draw(pairing, dataset, 1), _draw(pairing, dataset, 1))
    assert (_draw(pairing, dataset, 1) != _draw(pairing, dataset, 2)).any()
