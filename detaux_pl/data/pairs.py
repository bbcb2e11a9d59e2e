"""Pairs of samples, drawn as index vectors: no per-item Python."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError


def draw_pairs(
    labels: NDArray[np.int64], p_different: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair every sample with a partner of the same or of another class.

    Every sample is first of one pair, in random order. With probability `p_different` its partner
    is uniform over all samples of the other classes, otherwise uniform over the other samples of
    its class; the sample itself is never its own partner. A sample that is alone in its class
    always gets a partner of another class.

    Args:
        labels: Principal label of each sample, shape (n,), of at least two classes.
        p_different: Probability of a partner of another class, in [0, 1]. Paper: 0.5 (B.5).
        rng: Source of the randomness.

    Returns:
        Two vectors of positions in `labels`, shape (n,) each: first and second of each pair.

    Raises:
        UserError: If all samples are of one class.
    """
    n = len(labels)
    by_class = np.argsort(labels, kind="stable")
    rank = np.empty(n, dtype=np.int64)
    rank[by_class] = np.arange(n)
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise UserError(f"pairs need at least 2 classes: all {n} images of the split are of one.")
    starts = np.cumsum(counts) - counts

    first = rng.permutation(n)
    start, count = starts[inverse[first]], counts[inverse[first]]
    different = (rng.random(n) < p_different) | (count == 1)
    uniform = rng.random(n)
    # Same class: go on by 1 .. count - 1 places around the block of the class.
    step = 1 + (uniform * (count - 1)).astype(np.int64)
    same_rank = start + (rank[first] - start + step) % count
    # Other classes: count places through the order, leaping over the block of the class.
    place = (uniform * (n - count)).astype(np.int64)
    other_rank = np.where(place < start, place, place + count)
    return first, by_class[np.where(different, other_rank, same_rank)]
