"""Modularity: each code tells one factor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.inputs import check, draw_rows
from detaux_pl.metrics.metric import Metric, Score
from detaux_pl.metrics.mutual_information import mutual_information


def modularity(
    codes: NDArray[np.floating],
    factors: NDArray[np.integer],
    *,
    seed: int = 0,
    n_train: int = 10_000,
    n_bins: int = 20,
) -> dict[str, float]:
    """Return how little the codes tell beside one factor each.

    `mean_i [1 - sum_{j != best} I_ij^2 / (I_i,best^2 (F - 1))]`, I the mutual information of
    discretised code i and factor j; a code that tells nothing counts 0. In [0, 1], and high even
    for random codes (0.6) and rotated ones (0.9).

    Args:
        codes: Codes, shape (N, C) or (N, K, D); of the latter every dimension is a code.
        factors: Factors, integers, shape (N, F).
        seed: Seed of the samples.
        n_train: Number of samples to use at most. disentanglement_lib: 10,000.
        n_bins: Number of bins of a code. disentanglement_lib: 20.

    Returns:
        `modularity`.

    Raises:
        UserError: If there are fewer than two factors, a code is not finite, or a factor is
            continuous or has one value only.

    Example:
        >>> factors = np.indices((3, 4)).reshape(2, -1).T.repeat(50, axis=0)
        >>> turned = factors @ [[0.6, 0.8], [-0.8, 0.6]]
        >>> scores = [modularity(codes, factors) for codes in (1.0 * factors, turned)]
        >>> [round(score["modularity"], 1) for score in scores]
        [1.0, 0.4]

    References:
        Ridgeway & Mozer 2018, arXiv 1802.05312, section 3; disentanglement_lib.
    """
    values, given = check(codes, factors)
    n_factors = given.shape[1]
    if n_factors < 2:
        raise UserError(
            "modularity compares the factors of a code, and there is one factor: give at least 2, "
            "or leave modularity out."
        )
    rows = draw_rows(len(values), n_train, seed)
    squares = mutual_information(values[rows], given[rows], n_bins=n_bins) ** 2
    best = squares.max(axis=1)
    alive = best > 0
    rest = (squares.sum(axis=1) - best)[alive] / (best[alive] * (n_factors - 1))
    return {"modularity": float((1 - rest).sum() / len(best))}


METRIC = Metric(
    key="modularity",
    function=modularity,
    scores={
        "modularity": Score(
            "modularity", "whether a code tells of one factor only; high for random codes"
        ),
    },
    place=7,
    least_factors=2,
)
