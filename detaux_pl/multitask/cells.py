"""Cells: the images of one class in one group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.metrics.worst_cell import worst_accuracy

MOST = 1_000_000
"""Most cells that are told apart: each is a number in memory, and several tasks multiply."""


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
        right, total = (part[:-1].double().cpu().numpy() for part in (self.right, self.total))
        return torch.tensor(worst_accuracy(right, total)).to(self.right)
