"""Mutual information of codes and factors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.metrics.inputs import Floats, Ints, as_dims, check


def discretise(codes: Floats, n_bins: int = 20) -> Ints:
    """Cut every code into bins of equal width between its extremes.

    Args:
        codes: Codes, shape (N, C).
        n_bins: Number of bins. disentanglement_lib: 20.

    Returns:
        Bin of each code, from 0, shape (N, C); a constant code has one bin.
    """
    low, high = codes.min(axis=0), codes.max(axis=0)
    # The edges of np.histogram, of which the last is left out: the maximum is in the last bin.
    edges = np.linspace(low, np.where(high > low, high, low + 1), n_bins + 1)[:-1]
    return np.stack(
        [np.digitize(code, edge) - 1 for code, edge in zip(codes.T, edges.T, strict=True)], axis=1
    )


def mutual_information(
    codes: NDArray[np.floating], factors: NDArray[np.integer], *, n_bins: int = 20
) -> Floats:
    """Return the mutual information [nats] of every discretised code and every factor.

    Args:
        codes: Codes, shape (N, C) or (N, K, D); of the latter every dimension is a code, C = K D.
        factors: Factors, integers, shape (N, F).
        n_bins: Number of bins of a code.

    Returns:
        Shape (C, F).

    Raises:
        UserError: If a code is not finite, or a factor is continuous or has one value only.

    Example:
        >>> factors = np.indices((3, 4)).reshape(2, -1).T.repeat(50, axis=0)
        >>> mutual_information(1.0 * factors, factors).round(3)  # log 3 and log 4
        array([[1.099, 0.   ],
               [0.   , 1.386]])
    """
    values, given = check(codes, factors)
    bins = discretise(as_dims(values), n_bins)
    joint = np.array([[joint_entropy(code, factor) for factor in given.T] for code in bins.T])
    shared: Floats = np.maximum(0.0, entropies(bins)[:, None] + entropies(given) - joint)
    return shared


def entropies(labels: Ints) -> Floats:
    """Return the entropy [nats] of every column of labels from 0, shape (N, F)."""
    return np.array([_entropy(np.bincount(column)) for column in labels.T])


def joint_entropy(first: Ints, second: Ints) -> float:
    """Return the entropy [nats] of pairs of labels from 0, both of shape (N,)."""
    return _entropy(np.bincount(first * (second.max() + 1) + second))


def _entropy(counts: Ints) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
