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
    """
    values, given = check(codes, factors)
    bins = discretise(as_dims(values), n_bins)
    return np.array([[shared_information(code, factor) for factor in given.T] for code in bins.T])


def shared_information(first: Ints, second: Ints) -> float:
    """Return the mutual information [nats] of two labellings from 0, shape (N,)."""
    shape = first.max() + 1, second.max() + 1
    joint = np.bincount(first * shape[1] + second, minlength=shape[0] * shape[1]).reshape(shape)
    total = entropy(joint.sum(1)) + entropy(joint.sum(0)) - entropy(joint)
    return max(0.0, total)


def entropy(counts: NDArray[np.integer]) -> float:
    """Return the entropy [nats] of a table of counts."""
    n = counts.sum()
    share = counts[counts > 0] / n
    return float(-(share * np.log(share)).sum())


def factor_entropies(factors: Ints) -> Floats:
    """Return the entropy [nats] of every factor, shape (F,)."""
    return np.array([entropy(np.bincount(factor)) for factor in factors.T])
