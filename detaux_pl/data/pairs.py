"""Pairs of samples, drawn as index vectors: no per-item Python."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError


class NoPartnerError(UserError):
    """The images of a split make no pairs of the kind that is asked for: more images may."""


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
        p_different: Probability of a partner of another class, in [0, 1]. Paper: unknown.
        rng: Source of the randomness.

    Returns:
        Two vectors of positions in `labels`, shape (n,) each: first and second of each pair.

    Raises:
        NoPartnerError: If all samples are of one class.

    Example:
        >>> labels = np.repeat([0, 1], 50)
        >>> first, second = draw_pairs(labels, p_different=1.0, rng=np.random.default_rng(0))
        >>> bool((labels[first] != labels[second]).all())
        True
    """
    n = len(labels)
    groups = place_groups(labels)
    if groups.size[:1] == n:
        raise NoPartnerError(
            f"pairs need at least 2 classes, but all {n} images are of one: choose another pairing "
            "or a model without pairs."
        )
    first = rng.permutation(n)
    start, count = groups.start[first], groups.size[first]
    different = (rng.random(n) < p_different) | (count == 1)
    uniform = rng.random(n)
    # Other classes: count places through the order, leaping over the block of the class.
    place = (uniform * (n - count)).astype(np.int64)
    other = groups.order[np.where(place < start, place, place + count)]
    return first, np.where(different, other, draw_within(groups, first, uniform))


class Groups(NamedTuple):
    """Samples in blocks of equal key.

    Args:
        order: Positions, sorted by key, shape (n,).
        rank: Place of each position in `order`, shape (n,).
        start: Place where the block of each position begins, shape (n,).
        size: Size of the block of each position, shape (n,).
    """

    order: NDArray[np.int64]
    rank: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]


def place_groups(keys: NDArray[np.int64]) -> Groups:
    """Sort samples into blocks of equal key."""
    order = np.argsort(keys, kind="stable")
    rank = np.empty(len(keys), dtype=np.int64)
    rank[order] = np.arange(len(keys))
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return Groups(order, rank, (np.cumsum(counts) - counts)[inverse], counts[inverse])


def draw_within(
    groups: Groups, first: NDArray[np.int64], uniform: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Draw for each position another one of its block, or itself where it is alone.

    Args:
        groups: The blocks.
        first: Positions, shape (m,).
        uniform: Uniform numbers in [0, 1) that choose, shape (m,).
    """
    start, count = groups.start[first], groups.size[first]
    # On by 1 .. count - 1 places around the block.
    step = 1 + (uniform * (count - 1)).astype(np.int64)
    return groups.order[start + (groups.rank[first] - start + step) % count]
