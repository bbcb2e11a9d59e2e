"""What all disentanglers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from detaux_pl.data.modules import Batch
from detaux_pl.losses.learning_rate import LearningRateSchedule, schedule_learning_rate
from detaux_pl.models.seeding import reseed_batch


class Disentangler(LightningModule, ABC):
    """A model that codes an image in K subspaces of D dimensions, one of them the principal one.

    A subclass sets `principal_subspace`, gives `n_subspaces` and `encode`, and trains. One that
    can also paint an image from codes is an `AutoencodingDisentangler`.

    Every training batch has torch's generators seeded from `(seed, epoch, batch, rank)`, where
    the seed is that of `seed_everything`: a resumed run goes on as the undisturbed one would
    have. Without `seed_everything` nothing is seeded.

    Args:
        lr: Learning rate; > 0.
        weight_decay: Weight decay; >= 0.
        optimizer: `adamw`, or `adam` with an L2 penalty.
        lr_schedule: `constant`, or `cosine` to zero over the training, step by step.

    Raises:
        ValueError: If `lr` or `weight_decay` is outside its range.
    """

    principal_subspace: int
    """Index of the subspace that the model keeps for the principal factor."""

    def __init__(
        self,
        lr: float,
        weight_decay: float,
        optimizer: Literal["adamw", "adam"],
        lr_schedule: LearningRateSchedule,
    ) -> None:
        super().__init__()
        if lr <= 0 or weight_decay < 0:
            raise ValueError(
                f"lr is {lr} and weight_decay is {weight_decay}: lr must be positive, "
                "weight_decay must not be negative."
            )
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule

    @property
    @abstractmethod
    def n_subspaces(self) -> int:
        """Number of subspaces K."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return the codes, shape (B, K, D), of images in [0, 1], shape (B, C, H, W)."""

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return the codes of a batch, float32, shape (B, K, D)."""
        return self.encode(batch.images).float()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the batch; a subclass that overrides this calls it."""
        reseed_batch(self.current_epoch, batch_idx, self.global_rank, self.device)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return Adam or AdamW, with its schedule.

        Raises:
            ValueError: If a cosine schedule has no end to fall to.
        """
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        # Lightning does not clip gradients for fused optimisers in mixed precision.
        fused = not self.trainer.gradient_clip_val
        optimizer = kind(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        return schedule_learning_rate(
            optimizer, self.lr_schedule, lambda: self.trainer.estimated_stepping_batches
        )

    @staticmethod
    def check_subspaces(n_subspaces: int, principal_subspace: int) -> None:
        """Check the number of subspaces, and that the principal one is among them.

        Raises:
            ValueError: If they do not fit.
        """
        if n_subspaces < 2 or not 0 <= principal_subspace < n_subspaces:
            raise ValueError(
                f"n_subspaces is {n_subspaces} and principal_subspace is {principal_subspace}: "
                "give at least 2 subspaces, and the index of one of them."
            )

    def log_losses(
        self, stage: str, total: Tensor, terms: Mapping[str, Tensor], batch_size: int
    ) -> None:
        """Log `<stage>/loss` and every unweighted `<stage>/<term>`, as means over the epoch."""
        values = {"loss": total, **terms}
        self.log_dict(
            {f"{stage}/{name}": value.detach() for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=batch_size,
        )
