"""What a regulariser is: from the embeddings of a batch to a term of the loss."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detaux_pl.losses.info_nce import InfoNCE


class Embeddings(NamedTuple):
    """Embeddings of the M = 2N views of a batch, joined over all ranks, in K slices of d dims.

    The first views of all pairs come first, then the second ones in the same order.

    Args:
        slices: Un-normalised embeddings, shape (M, K, d).
        labels: Labels for the loss of the whole embedding, int64, shape (M,).
        slice_labels: Labels for the loss of each slice, int64, shape (K, M).
        step: Number of the training step, the same on all ranks.
    """

    slices: Tensor
    labels: Tensor
    slice_labels: Tensor
    step: int

    def views(self) -> Tensor:
        """Return the slices by view, shape (2, N, K, d).

        Raises:
            ValueError: If the number of embeddings is odd.
        """
        if len(self.slices) % 2:
            raise ValueError(
                f"there are {len(self.slices)} embeddings: give two views of each sample, all "
                "first views before all second ones."
            )
        return torch.unflatten(self.slices, 0, (2, -1))


class Regularizer(nn.Module, ABC):
    """A term `weight * R` of the loss that keeps the slices apart.

    Subclasses compute R in float32, or in float64 for such embeddings, in memory that grows with
    `info_max.chunk_size` times the batch. They reduce over the batch as `info_max` does.

    Args:
        weight: Weight of the term, which the caller applies; not negative. Papers: unknown.

    Raises:
        ValueError: If `weight` is negative, infinite or NaN.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not 0.0 <= weight < math.inf:
            raise ValueError(
                f"the weight of {type(self).__name__} is {weight}: give a finite number that is "
                "not negative."
            )
        self.weight = weight
        self.diagnostics: dict[str, Tensor] = {}
        """What else of the last batch is worth logging, scalars without a gradient, by name."""

    @property
    def name(self) -> str:
        """Name in logs: that of the class in snake case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def forward(self, batch: Embeddings, info_max: InfoNCE) -> Tensor:
        """Return the unweighted scalar R.

        Args:
            batch: The embeddings and their labels.
            info_max: The contrastive loss of the training: its temperature, reduction and chunks.
        """
