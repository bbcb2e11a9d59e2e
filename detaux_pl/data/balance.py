"""Training images drawn so that no combination of labels is rare."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.labels import IGNORED


def draw_balanced(
    labels: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw as many rows as there are, each combination of labels as often as the others.

    Of n rows with all labels and m combinations, each gets n // m or one more, and in it each row
    is drawn as often as the others, or once more. Rows that lack a label are drawn once.

    Args:
        labels: Labels of the rows, shape (n, T), or `IGNORED`.
        rows: The rows, shape (n,).
        rng: What draws.

    Returns:
        Rows in random order, shape (n,).

    Example:
        >>> labels = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [0, IGNORED]])
        >>> np.bincount(draw_balanced(labels, np.arange(5), np.random.default_rng(0)))[3:]
        array([2, 1])
    """
    lacking = (labels == IGNORED).any(axis=1)
    known = rng.permutation(np.flatnonzero(~lacking))
    _, cells, sizes = np.unique(labels[known], axis=0, return_inverse=True, return_counts=True)
    known = known[np.argsort(cells.reshape(-1), kind="stable")]
    drawn = [np.flatnonzero(lacking)]
    # Which cells get one more is drawn, too.
    shares = rng.permutation(np.bincount(np.arange(len(known)) % max(len(sizes), 1)))
    for cell, share in zip(np.split(known, np.cumsum(sizes))[:-1], shares, strict=True):
        drawn.append(np.resize(cell, share))
    order: NDArray[np.int64] = rows[rng.permutation(np.concatenate(drawn))]
    return order
