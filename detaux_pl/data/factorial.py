"""Data that are a complete factorial, and their random splits, whatever gives the pixels."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detaux_pl.artifacts.codes import LABELLED, SPLITS
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.correlation import Correlate
from detaux_pl.data.factor_dataset import FactorDataset


class Factorial(FactorDataset):
    """Every combination of the values of some factors, one image each.

    The id of an image is the mixed-radix number of its factors, the last one fastest. A quarter
    of the images is the test split, drawn uniformly unless `held_out` says otherwise; of the rest,
    5 % are drawn for validation. Where a file tells the sizes, they are known after `describe`.

    Args:
        principal: Name of the principal factor.
        n_train: Number of training images, drawn uniformly; None for all.
        n_val: Number of validation images; None for all.
        n_test: Number of test images; None for all.
        seed: Seed of the splits and of the drawing; a smaller number draws a part of what a
            larger one does.
        correlate: A factor that goes with another one in train and val; None for none.

    Raises:
        ValueError: If a number is outside its range, where the sizes need no reading.
    """

    ids: NDArray[np.int64]

    def __init__(
        self,
        principal: str,
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        seed: int = 0,
        correlate: Correlate | None = None,
    ) -> None:
        super().__init__(principal)
        self.correlate = correlate
        if correlate is not None and hasattr(self, "factor_names"):
            correlate.check(self.factor_names)
        self.wanted = (n_train, n_val, n_test)
        self.seed = seed
        if hasattr(self, "factor_sizes"):
            self._check_wanted(self.capacities)
        else:
            self._check_wanted((None, None, None))

    @property
    def n_combinations(self) -> int:
        """Number of images of all splits together."""
        return math.prod(self.factor_sizes)

    @property
    def capacities(self) -> tuple[int, int, int]:
        """Images that train, val and test have to give."""
        n_test = round(self.n_combinations / 4)
        n_val = round((self.n_combinations - n_test) / 20)
        return self.n_combinations - n_test - n_val, n_val, n_test

    def held_out(self, factors: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Say of all images, by id, whether they are for testing: a quarter of them, shape (N,).

        Args:
            factors: Factors of all images, shape (N, F).
            rng: Source of the randomness.
        """
        return rng.permutation(np.arange(len(factors)) < self.capacities[SPLITS.index("test")])

    @abstractmethod
    def images(self, rows: Tensor) -> Tensor:
        """Return the images of some rows, uint8, shape (n, C, H, W), on the CPU."""

    def describe(self) -> None:
        """Check the numbers of images, now that the sizes of the factors are known.

        Raises:
            ValueError: If a number is outside its range.
        """
        self._check_wanted(self.capacities)
        super().describe()

    def setup(self) -> None:
        """Assign the images to their splits.

        Raises:
            UserError: If fewer images than asked for let one factor go with another.
        """
        self.describe()
        factors = np.indices(self.factor_sizes).reshape(len(self.factor_sizes), -1).T
        rng = np.random.default_rng(self.seed)
        test = self.held_out(factors, rng)
        rest = rng.permutation(np.flatnonzero(~test))
        n_val = self.capacities[SPLITS.index("val")]
        pools = rest[n_val:], rest[:n_val], rng.permutation(np.flatnonzero(test))
        if self.correlate is not None:
            pools = self._tied(self.correlate, pools, factors)
        drawn = [pool[:n] for pool, n in zip(pools, self.wanted, strict=True)]
        ids = np.concatenate(drawn)
        order = np.argsort(ids)
        self.ids = ids[order]
        counts = [len(part) for part in drawn]
        self.splits = np.repeat(np.arange(len(LABELLED), dtype=np.int8), counts)[order]
        self.factors = factors[self.ids]

    def _tied(
        self,
        correlate: Correlate,
        pools: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
        factors: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Draw of each pool, in random order, what lets one factor go with another."""
        rows = np.concatenate(pools)
        splits = np.repeat(np.arange(len(LABELLED), dtype=np.int8), [len(pool) for pool in pools])
        rng = np.random.default_rng([self.seed, 1])
        names, sizes = self.factor_names, self.factor_sizes
        kept = rng.permutation(correlate.draw(factors[rows], names, sizes, splits, rng))
        train, val, test = (rows[kept[splits[kept] == k]] for k in range(len(LABELLED)))
        for name, pool, wanted in zip(LABELLED, (train, val, test), self.wanted, strict=True):
            if wanted is not None and wanted > len(pool):
                raise UserError(
                    f"n_{name} is {wanted:,}, but a share of {correlate.share:g} leaves "
                    f"{len(pool):,} images: give at most that, or a lower share."
                )
        return train, val, test

    def _check_wanted(self, most: tuple[int | None, int | None, int | None]) -> None:
        for name, wanted, limit in zip(LABELLED, self.wanted, most, strict=True):
            if wanted is not None and not 1 <= wanted <= (wanted if limit is None else limit):
                allowed = "at least 1" if limit is None else f"1 to {limit}"
                raise ValueError(f"n_{name} is {wanted}: give {allowed}, or null for all.")
