"""Samples that share the value of a factor."""

from __future__ import annotations

import numpy as np

from detaux_pl.metrics.inputs import Ints


class SharedValues:
    """Draws samples that agree in one factor.

    Args:
        factors: Factors, from 0, shape (N, F).
    """

    def __init__(self, factors: Ints) -> None:
        self._factors = factors
        self._order = np.argsort(factors, axis=0, kind="stable").T
        self._counts = [np.bincount(factor) for factor in factors.T]
        self._starts = [np.cumsum(count) - count for count in self._counts]

    def partners(self, chosen: Ints, rows: Ints, rng: np.random.Generator) -> Ints:
        """Draw, for each of some samples, one that has the same value of a factor.

        Args:
            chosen: Index of the factor of each batch, shape (n,).
            rows: The samples of each batch, shape (n, b).
            rng: Source of the draws.

        Returns:
            Rows, drawn with replacement, shape (n, b).
        """
        uniform = rng.random(rows.shape)
        partners = np.empty_like(rows)
        for factor, (order, count, start) in enumerate(
            zip(self._order, self._counts, self._starts, strict=True)
        ):
            mine = chosen == factor
            value = self._factors[rows[mine], factor]
            place = start[value] + (uniform[mine] * count[value]).astype(np.int64)
            partners[mine] = order[place]
        return partners
