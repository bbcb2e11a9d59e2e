"""How far two discovered labellings say the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.labels import IGNORED

UNLIKE = 0.5
"""AMI up to which two labellings are tasks of their own."""

_SAMPLES = 100_000
"""Samples that two labellings are compared on, at most: drawn once, at random."""


def some_rows(n: int) -> NDArray[np.int64] | slice:
    """Return rows of n samples that labellings are compared on: all, unless they are many."""
    if n <= _SAMPLES:
        return slice(None)
    return np.sort(np.random.default_rng(0).choice(n, _SAMPLES, replace=False, shuffle=False))


def agreement(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """AMI of two labellings where both have one; 0 where that says nothing of them.

    Of more than 100,000 samples, on as many of them.

    scikit-learn calls two labellings equal of which each has one cluster there, or as many as
    samples: so they are, by chance.
    """
    some = some_rows(len(first))
    first, second = first[some], second[some]
    both = (first != IGNORED) & (second != IGNORED)
    shared = [labels[both] for labels in (first, second)]
    if not all(2 <= len(np.unique(labels)) < len(labels) for labels in shared):
        return 0.0
    from sklearn.metrics import adjusted_mutual_info_score  # a second to import, and few need it

    return float(adjusted_mutual_info_score(*shared))
