"""What a data module gives: batches, and what a net of a cross-fit is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from detaux_pl.data.factor_dataset import FactorDataset


class Batch(NamedTuple):
    """Images with what belongs to them.

    Args:
        images: Float images in [0, 1], shape (*shape, C, H, W).
        targets: Labels of T tasks, int64, shape (*shape, T); task 0 is the principal one, and
            `IGNORED` marks a sample that a task leaves out.
        rows: Row of each image in the data set, int64, shape (*shape,).

    `shape` is (B,) for single images and (2, B) for pairs and views, which are stacked first.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Fold:
    """What a net of a cross-fit is told of, and what it is asked.

    Args:
        train: Rows to train on, shape (n,).
        asked: Rows to predict, shape (m,), in this order.
        targets: Labels of every row of the data set, int64, shape (N, T), or `IGNORED`.
    """

    train: NDArray[np.int64]
    asked: NDArray[np.int64]
    targets: NDArray[np.int64]


class Rows(Dataset[Batch]):
    """A data set whose items are whole batches, addressed by their row numbers."""

    def __init__(self, dataset: FactorDataset, targets: Tensor, read: bool) -> None:
        self.dataset = dataset
        self.targets = targets
        self.read = read

    def __getitem__(self, rows: Tensor) -> Batch:
        if self.read:
            flat = self.dataset.images(rows.flatten())
            images = flat.view(*rows.shape, *flat.shape[1:])
        else:
            images = torch.empty(0, dtype=torch.uint8)
        return Batch(images, self.targets[rows], rows)


def as_is(batch: Any) -> Any:
    """Spare a batch of tensors the search for something to convert; a lambda cannot be pickled."""
    return batch
