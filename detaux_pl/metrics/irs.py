"""Interventional robustness score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.metrics.inputs import Floats, Ints, Per, as_dims, check, draw_rows
from detaux_pl.metrics.metric import Metric, Score
from detaux_pl.metrics.mutual_information import discretise

_MOST_VALUES = 20
"""Factors of more values are cut into as many bins."""


def irs(
    codes: NDArray[np.floating],
    factors: NDArray[np.integer],
    *,
    seed: int = 0,
    n_train: int = 10_000,
    quantile: float = 0.99,
    per: Per = "dim",
) -> dict[str, float]:
    """Return how little a code moves while its own factor is fixed and all others change.

    For code i and factor j, the quantile of `|z_i - mean|` over the samples of each value of the
    factor, the mean over values, relative to the largest deviation of the code; the score of a
    code is 1 minus the least of these, that of all the mean weighted by the largest deviations.
    Random codes do not score 0: a quantile below 1 leaves their extremes out. Compare only equal
    numbers of samples.

    Args:
        codes: Codes, shape (N, C) or (N, K, D).
        factors: Factors, integers, shape (N, F); of more than 20 values, 20 bins.
        seed: Seed of the samples.
        n_train: Number of samples. disentanglement_lib: 10,000.
        quantile: Quantile of the deviations, in (0, 1]. disentanglement_lib: 0.99; paper: 1.
        per: Whether a code is a `dim` or a `subspace`, whose deviation is the Euclidean distance.

    Returns:
        `irs`; 0 where all codes are constant.

    Raises:
        ValueError: If the quantile is not in (0, 1], or `n_train` not positive.
        UserError: If a code is not finite, or a factor is continuous or has one value only.

    Example:
        >>> factors = np.indices((3, 4)).reshape(2, -1).T.repeat(50, axis=0)
        >>> turned = factors @ [[0.6, 0.8], [-0.8, 0.6]]
        >>> [round(irs(codes, factors)["irs"], 1) for codes in (1.0 * factors, turned)]
        [1.0, 0.6]

    References:
        Suter et al. 2019, arXiv 1811.00007, section 4; disentanglement_lib.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile is {quantile}: give one in (0, 1].")
    values, given = check(codes, factors)
    rows = draw_rows(len(values), n_train, seed)
    values, given = values[rows], given[rows]
    if per == "dim":
        values = as_dims(values)[..., None]
    # Samples last, so that those of a value lie side by side.
    columns = np.ascontiguousarray(values.transpose(1, 2, 0))
    largest = _deviation(columns).max(axis=1)
    alive = largest > 1e-6 * np.abs(columns).max(axis=(1, 2))
    if not alive.any():
        return {"irs": 0.0}
    columns, largest = columns[alive], largest[alive]
    least = np.full(len(largest), np.inf)
    for factor in given.T:
        bins = _bins(factor)
        counts = np.bincount(bins)
        ends = np.cumsum(counts)
        grouped = columns.take(np.argsort(bins, kind="stable"), axis=2)
        moves = [
            _quantile(_deviation(grouped[..., end - count : end]), quantile)
            for count, end in zip(counts, ends, strict=True)
            if count
        ]
        least = np.minimum(least, np.mean(moves, axis=0))
    return {"irs": float((largest - least).sum() / largest.sum())}


def _bins(factor: Ints) -> Ints:
    if len(np.unique(factor)) <= _MOST_VALUES:
        return factor
    return discretise(factor[:, None].astype(float), _MOST_VALUES)[:, 0]


def _deviation(columns: Floats) -> Floats:
    """Distance of each sample to the mean, shape (C, n), of codes of shape (C, D, n)."""
    centred = columns - columns.mean(axis=2, keepdims=True)
    distance: Floats = np.abs(centred[:, 0])
    if centred.shape[1] > 1:
        distance = np.linalg.norm(centred, axis=1)
    return distance


def _quantile(values: Floats, quantile: float) -> Floats:
    """Quantile of each row, as `np.quantile`, which takes several times as long."""
    ranked = np.sort(values, axis=1)
    place = quantile * (ranked.shape[1] - 1)
    below = int(place)
    low, high = ranked[:, below], ranked[:, min(below + 1, ranked.shape[1] - 1)]
    between: Floats = low + (place - below) * (high - low)
    return between


METRIC = Metric(
    key="irs",
    function=irs,
    scores={
        "irs": Score(
            "IRS", "how little a code moves while its factor is kept; above 0 for random codes"
        ),
    },
    place=6,
    per_subspace=True,
)
