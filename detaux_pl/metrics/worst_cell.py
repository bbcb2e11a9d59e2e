"""The accuracy where a classifier does worst: of one class in one group, a cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FEWEST = 10
"""Fewest images by which a cell is judged by itself."""
_TIE = 1e-4
"""Share of the mean accuracy in the worst one, which decides between equals."""


def worst_accuracy(right: NDArray[np.number], total: NDArray[np.number]) -> NDArray[np.float64]:
    """Return the accuracy in the worst cell, and a ten-thousandth of the mean one.

    Cells of fewer than 10 images would be right or wrong by chance: they count together as one, and
    not at all where they are fewer than 10 together and others are left. The ten-thousandth decides
    between equals, of which there are many where a cell has few images.

    Args:
        right: Images of each cell that are classified rightly, shape (..., G).
        total: Images of each cell, shape (G,).

    Returns:
        Shape (...,); 0 without an image.

    Example:
        >>> right, total = np.array([18.0, 5.0, 1.0, 2.0]), np.array([20.0, 10.0, 6.0, 6.0])
        >>> float(worst_accuracy(right, total).round(4))  # the last two cells: 3 of 12
        0.2501
    """
    few = total < FEWEST
    rights = np.append(right, (right * few).sum(axis=-1, keepdims=True), axis=-1)
    totals = np.append(total * ~few, (total * few).sum())
    # Those that are few together count where there is nothing else.
    counts = totals >= min(FEWEST, max(totals.max(), 1))
    if not counts.any():
        return np.zeros(right.shape[:-1])
    worst = (rights[..., counts] / totals[counts]).min(axis=-1)
    least: NDArray[np.float64] = worst + _TIE * right.sum(axis=-1) / total.sum()
    return least
