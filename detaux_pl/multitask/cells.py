"""Cells: the images of one class in one group."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from detaux_pl.artifacts.labels import IGNORED

FEWEST = 10
"""Fewest validation images by which a cell is judged by itself."""
_TIE = 1e-4
"""Share of the mean accuracy in the worst one, which decides between equals."""


def cell_of(targets: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the cell of each image, class × group, or `IGNORED` without a class or a group.

    With several auxiliary tasks a group is what an image has in all of them.

    Args:
        targets: Labels, int64, shape (B, T), or `IGNORED`; the class comes first.
        sizes: Number of classes of each task.

    Returns:
        int64, shape (B,), from 0 to the product of the sizes.

    Example:
        >>> cell_of(torch.tensor([[0, 2], [1, 0], [1, IGNORED]]), sizes=(2, 3))
        tensor([ 2,  3, -1])
    """
    cell = torch.zeros_like(targets[:, 0])
    for labels, size in zip(targets.unbind(1), sizes, strict=True):
        cell = cell * size + labels
    return torch.where((targets == IGNORED).any(dim=1), IGNORED, cell)


def worst_accuracy(right: Tensor, total: Tensor) -> Tensor:
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
        >>> right, total = torch.tensor([18.0, 5.0, 1.0, 2.0]), torch.tensor([20.0, 10.0, 6.0, 6.0])
        >>> round(worst_accuracy(right, total).item(), 4)  # the last two cells: 3 of 12
        0.2501
    """
    few = total < FEWEST
    right = torch.cat([right, (right * few).sum(dim=-1, keepdim=True)], dim=-1)
    total = torch.cat([total * ~few, (total * few).sum(dim=0, keepdim=True)])
    # Those that are few together count where there is nothing else.
    counts = total >= min(FEWEST, max(float(total.max()), 1.0))
    accuracy = torch.where(counts, right / total.clamp(min=1), math.inf)
    mean = right[..., :-1].sum(dim=-1) / total.sum().clamp(min=1)
    return torch.where(counts.any(), accuracy.amin(dim=-1) + _TIE * mean, 0.0)


class WorstCell(Metric):
    """The accuracy in the worst cell, see `worst_accuracy`; images of no cell do not count.

    Args:
        n_cells: Number of cells.

    Example:
        >>> metric = WorstCell(n_cells=2)
        >>> metric.update(torch.tensor([True, False]), torch.tensor([0, IGNORED]))
        >>> round(metric.compute().item(), 4)
        1.0001
    """

    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, n_cells: int) -> None:
        super().__init__()
        for name in ("right", "total"):
            self.add_state(name, torch.zeros(n_cells + 1), dist_reduce_fx="sum")

    def update(self, right: Tensor, cells: Tensor) -> None:
        """Take images in.

        Args:
            right: Whether each is classified rightly, bool, shape (B,).
            cells: Cell of each, or `IGNORED`, shape (B,).
        """
        place = cells % len(self.total)  # -1 is the last one
        self.right = self.right.index_add(0, place, right.to(self.right))
        self.total = self.total.index_add(0, place, torch.ones_like(place).to(self.total))

    def compute(self) -> Tensor:
        """Return the accuracy of all images, a scalar."""
        return worst_accuracy(self.right[:-1], self.total[:-1])
