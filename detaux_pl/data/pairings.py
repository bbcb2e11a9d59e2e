"""Which images make a pair: by the principal label, by known factors, or as the data give them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.pairs import NoPartnerError, draw_pairs, draw_within, place_groups

_ROUNDS = 20
"""Uniform draws that may fail before what remains is drawn from lists."""


class Pairing(ABC):
    """A way to make pairs of the rows of one split; partners come from the same split."""

    @abstractmethod
    def draw(
        self, dataset: FactorDataset, rows: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return the pairs of an epoch in random order, as rows of the data set, shape (2, n).

        Args:
            dataset: The images and their factors.
            rows: Rows of one split, shape (m,).
            rng: Source of the randomness.

        Raises:
            UserError: If the data have no such pairs.
        """

    def n_pairs(self, dataset: FactorDataset, rows: NDArray[np.int64]) -> int:
        """Return how many pairs an epoch has, by default one per row."""
        return len(rows)

    def check(self, dataset: FactorDataset) -> None:  # noqa: B027  a hook: most fit all data
        """Check that a described data set has the factors.

        Raises:
            UserError: If it has not.
        """


class PrincipalPairs(Pairing):
    """Pairs that agree or disagree in the principal label.

    Every image is first of one pair. The partner has another principal label with probability
    `p_different` and is uniform among those; else it is uniform among the other images of the
    class.

    Args:
        p_different: Probability that the partner has another principal label, in [0, 1].
            Paper: unknown; 0.5 is the official code's flag (docs/methods.md, 'Data and pairs').

    Raises:
        ValueError: If `p_different` is outside [0, 1].

    Example:
        >>> from detaux_pl.data.datasets.digit_scenes import DigitScenes
        >>> scenes = DigitScenes(n_train=100, n_val=10, n_test=10)
        >>> scenes.setup()
        >>> rng = np.random.default_rng(0)
        >>> first, second = PrincipalPairs(p_different=0.0).draw(scenes, scenes.rows("train"), rng)
        >>> bool((scenes.labels[first] == scenes.labels[second]).all())
        True
    """

    def __init__(self, p_different: float = 0.5) -> None:
        if not 0.0 <= p_different <= 1.0:
            raise ValueError(f"p_different is {p_different}: a probability is in [0, 1].")
        self.p_different = p_different

    def draw(
        self, dataset: FactorDataset, rows: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw a partner for every row."""
        return rows[np.stack(draw_pairs(dataset.labels[rows], self.p_different, rng))]


class ChangedFactors(Pairing):
    """Pairs that agree in all factors but k of them, for data whose factors are known.

    Every image is first of one pair. Which k factors may change is drawn uniformly; the partner
    is uniform among the other images that agree in all the rest, so that a factor which may
    change need not. An image that is alone with its values of the rest is its own partner.

    Args:
        k: Number of factors that may change, at least 1.
        factors: Names of the factors to choose from; None for all.

    Raises:
        ValueError: If `k` does not fit.

    Example:
        >>> from detaux_pl.data.datasets.digit_scenes import DigitScenes
        >>> scenes = DigitScenes(n_train=500, n_val=10, n_test=10)
        >>> scenes.setup()
        >>> rng = np.random.default_rng(0)
        >>> pairs = ChangedFactors(k=2).draw(scenes, scenes.rows("train"), rng)
        >>> changed = scenes.factors[pairs[0]] != scenes.factors[pairs[1]]
        >>> int(changed.sum(axis=1).max())  # of three factors
        2

    References:
        Fumero et al. 2021, "Learning disentangled representations via product manifold
        projection". Differs in: an image is its own partner only where it is alone.
    """

    def __init__(self, k: int = 1, factors: list[str] | None = None) -> None:
        if k < 1 or (factors is not None and k > len(factors)):
            raise ValueError(
                f"k is {k}: give at least 1 factor that changes, and no more than there are."
            )
        self.k = k
        self.factors = factors

    def check(self, dataset: FactorDataset) -> None:
        """Check that the factors exist and that there are k of them."""
        check_factors("factors", self.factors or (), dataset)
        if self.k > len(dataset.factor_names):
            raise UserError(
                f"k is {self.k}, but {type(dataset).__name__} has {len(dataset.factor_names)} "
                f"factor(s) ({', '.join(dataset.factor_names)}): give at most so many."
            )

    def draw(
        self, dataset: FactorDataset, rows: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw the factors that may change, then a partner, for every row."""
        self.check(dataset)
        choices = _columns(self.factors or dataset.factor_names, dataset)
        subsets = list(combinations(choices, self.k))
        first = rng.permutation(len(rows))
        chosen = rng.integers(len(subsets), size=len(rows))
        second = np.empty_like(first)
        for number, subset in enumerate(subsets):
            kept = [c for c in range(len(dataset.factor_names)) if c not in subset]
            mine = chosen == number
            if not mine.any():
                continue
            groups = place_groups(_keys(dataset, rows, kept))
            second[mine] = draw_within(groups, first[mine], rng.random(int(mine.sum())))
        if len(rows) and (first == second).all():
            raise NoPartnerError(
                f"no two of the {len(rows)} images of the split agree in all factors but "
                f"{self.k}: raise k or choose other pairs."
            )
        return rows[np.stack([first, second])]


class SharedFactors(Pairing):
    """Pairs that agree in some factors and disagree in others, for data whose factors are known.

    Every image is first of one pair. The partner is uniform among the other images that agree in
    all `shared` factors and disagree in each of the `different` ones.

    Args:
        shared: Names of the factors in which a pair agrees.
        different: Names of the factors in each of which it disagrees; the others are free.

    Raises:
        ValueError: If no factor is named, or one twice.

    Example:
        >>> from detaux_pl.data.datasets.digit_scenes import DigitScenes
        >>> scenes = DigitScenes(n_train=100, n_val=10, n_test=10)
        >>> scenes.setup()
        >>> rng = np.random.default_rng(0)
        >>> pairing = SharedFactors(shared=["digit"], different=["location"])
        >>> first, second = scenes.factors[pairing.draw(scenes, scenes.rows("train"), rng)]
        >>> (first == second).mean(axis=0)[[0, 2]]  # digit and location
        array([1., 0.])
    """

    def __init__(self, shared: list[str], different: list[str] | None = None) -> None:
        self.shared = shared
        self.different = [] if different is None else different
        named = [*shared, *self.different]
        if not named or len(set(named)) < len(named):
            raise ValueError(
                f"shared is {shared} and different is {self.different}: name at least one factor, "
                "and each once."
            )

    def check(self, dataset: FactorDataset) -> None:
        """Check that the factors exist."""
        check_factors("shared", self.shared, dataset)
        check_factors("different", self.different, dataset)

    def draw(
        self, dataset: FactorDataset, rows: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw a partner for every row.

        Raises:
            UserError: If an image has none.
        """
        self.check(dataset)
        shared = _keys(dataset, rows, _columns(self.shared, dataset))
        different = dataset.factors[rows][:, _columns(self.different, dataset)]
        groups = place_groups(shared)
        first = rng.permutation(len(rows))
        second = draw_within(groups, first, rng.random(len(first)))
        left = np.flatnonzero(~_fits(different, first, second))
        for _ in range(_ROUNDS):  # rejection: uniform over those that fit
            second[left] = draw_within(groups, first[left], rng.random(len(left)))
            left = left[~_fits(different, first[left], second[left])]
        if left.size:
            self._draw_from_lists(dataset, rows, shared, different, first, second, left, rng)
        return rows[np.stack([first, second])]

    def _draw_from_lists(
        self,
        dataset: FactorDataset,
        rows: NDArray[np.int64],
        shared: NDArray[np.int64],
        different: NDArray[np.int64],
        first: NDArray[np.int64],
        second: NDArray[np.int64],
        left: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> None:
        """Draw what rejection has left, one combination of values after the other, in place."""
        combination = np.column_stack([shared, different])[first[left]]
        _, inverse = np.unique(combination, axis=0, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        for part in np.split(left[order], np.cumsum(np.bincount(inverse))[:-1]):
            one = first[part[0]]
            fits = shared == shared[one]
            fits &= (different != different[one]).all(axis=1)
            candidates = np.flatnonzero(fits)
            if not self.different:
                candidates = candidates[candidates != one]
            if not candidates.size:
                raise NoPartnerError(self._lonely(dataset, rows[one]))
            second[part] = rng.choice(candidates, size=len(part))

    def _lonely(self, dataset: FactorDataset, row: np.int64) -> str:
        names, values = dataset.factor_names, dataset.factors[row]
        said = {
            name: f"{name} {dataset.value_names[name][v] if name in dataset.value_names else v}"
            for name, v in zip(names, values, strict=True)
        }
        unlike = f" and differs from {' and '.join(said[n] for n in self.different)}"
        return (
            f"the image {dataset.ids[row]} has no partner in its split: no other has "
            f"{' and '.join(said[n] for n in self.shared) or 'other values'}"
            f"{unlike if self.different else ''}; name fewer factors in shared or different."
        )


class GivenPairs(Pairing):
    """The pairs that the data come in, each once per epoch, either view first at random.

    Example:
        >>> from detaux_pl.data.datasets.digit_scenes import DigitScenes
        >>> scenes = DigitScenes(n_train=100, n_val=10, n_test=10)
        >>> scenes.setup()
        >>> rng = np.random.default_rng(0)
        >>> scenes.partners = np.arange(len(scenes)) ^ 1  # rows 2i and 2i + 1 belong together
        >>> first, second = GivenPairs().draw(scenes, scenes.rows("train"), rng)
        >>> len(first), int(abs(first - second).max())
        (50, 1)
    """

    def n_pairs(self, dataset: FactorDataset, rows: NDArray[np.int64]) -> int:
        """Return the number of pairs, of which each has two rows where both are views."""
        return len(self._pairs(dataset, rows))

    def draw(
        self, dataset: FactorDataset, rows: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Put the pairs and the two views of each in random order."""
        pairs = rng.permutation(self._pairs(dataset, rows))
        swapped = rng.random(len(pairs)) < 0.5
        pairs[swapped] = pairs[swapped, ::-1]
        return np.ascontiguousarray(pairs.T)

    @staticmethod
    def _pairs(dataset: FactorDataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pairs of a split, shape (n, 2), smaller row first."""
        if dataset.partners is None:
            raise UserError(
                f"{type(dataset).__name__} does not come in pairs: choose PrincipalPairs, "
                "ChangedFactors or SharedFactors for GivenPairs."
            )
        others = dataset.partners[rows]
        # One number per pair: unique rows of a matrix take ten times as long.
        codes = np.unique(np.minimum(rows, others) * len(dataset) + np.maximum(rows, others))
        return np.stack(np.divmod(codes, len(dataset)), axis=1)


def check_factors(argument: str, names: Sequence[str], dataset: FactorDataset) -> None:
    """Check that a described data set has some factors.

    Args:
        argument: Name of the setting, for the message.
        names: Names of the factors.
        dataset: The data set.

    Raises:
        UserError: If it has not.
    """
    for name in names:
        if name not in dataset.factor_names:
            close = get_close_matches(name, dataset.factor_names, n=1)
            allowed = f"choose one of {', '.join(dataset.factor_names)}."
            raise UserError(
                f"{argument} names {name!r}, but {type(dataset).__name__} has no such factor: "
                + (f"did you mean {close[0]!r}?" if close else allowed)
            )


def _columns(names: Sequence[str], dataset: FactorDataset) -> list[int]:
    return [dataset.factor_names.index(name) for name in names]


def _keys(
    dataset: FactorDataset, rows: NDArray[np.int64], columns: Sequence[int]
) -> NDArray[np.int64]:
    """Number of each row's combination of some factors, equal where all are, shape (m,)."""
    keys, n = np.zeros(len(rows), dtype=np.int64), 1
    for column in columns:
        values = dataset.factors[rows, column]
        size = int(values.max(initial=0)) + 1
        if n * size > np.iinfo(np.int64).max:  # numbered anew: the mixed radix would overflow
            found, keys = np.unique(keys, return_inverse=True)
            n = len(found)
        keys, n = keys * size + values, n * size
    return keys


def _fits(
    different: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.bool_]:
    fits: NDArray[np.bool_] = (first != second) & (different[first] != different[second]).all(
        axis=1
    )
    return fits
