"""The most frequent class: what every other model must beat."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.data.batch import Batch
from detaux_pl.multitask.base import MultitaskModel


class Majority(MultitaskModel):
    """Say of every image how frequent the classes are among the training labels.

    The logits are `log((n_c + 1) / (n + C))`. Nothing is trained: one epoch of one batch is enough.

    Args:
        task_sizes: Number of classes of each task, the principal one first, which alone counts.
            Filled in from the data module by the command line.

    Example:
        >>> [tuple(logits.shape) for logits in Majority((10, 4))(torch.zeros(2, 3, 8, 8))]
        [(2, 10)]
    """

    uses_auxiliary: ClassVar[bool] = False
    trained: ClassVar[bool] = False
    log_shares: Tensor

    def __init__(self, task_sizes: tuple[int, ...]) -> None:
        super().__init__(task_sizes[:1], lr=1.0, weight_decay=0.0, optimizer="sgd")
        self.save_hyperparameters()
        even = torch.full(task_sizes[:1], 1 / task_sizes[0])
        self.register_buffer("log_shares", even.log())
        # Lightning writes a checkpoint only after a step, and DDP wraps no model without weights.
        self._unused = nn.Parameter(torch.zeros(()))

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return a zero for each image, shape (B, 1), alone in a tuple."""
        return (images.flatten(1)[:, :1] * 0,)

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the same logits for each image, shape (B, classes)."""
        return (features[0] + self.log_shares,)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return none: nothing is trained by steps."""
        return []

    def on_fit_start(self) -> None:
        """Count the labels of the training images."""
        data = self.labelled_data()
        assert data is not None
        rows = data.dataset.rows("train") if data.fold is None else data.fold.train
        labels = data.targets[torch.from_numpy(rows), 0]
        counts = torch.bincount(labels[labels != IGNORED], minlength=self.sizes[0]) + 1.0
        self.log_shares.copy_((counts / counts.sum()).log())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log the loss of the batch; nothing is left to train."""
        loss = self.cross_entropy(self(batch.images)[0], batch.targets[:, 0])
        self.log_means({"train/loss": loss, "train/loss/principal": loss}, len(batch.rows))
        return self._unused.square()
