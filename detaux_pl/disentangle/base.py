"""What all disentanglers share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from detaux_pl.data.batch import Batch
from detaux_pl.losses.learning_rate import LearningRateSchedule, schedule_learning_rate
from detaux_pl.models.epoch_means import EpochMeans
from detaux_pl.models.last_window import MeanOverWindows
from detaux_pl.models.seeding import reseed_batch


class Disentangler(EpochMeans, MeanOverWindows, ABC):
    """A model that codes an image in K subspaces of D dimensions.

    A subclass sets `principal_subspace`, gives `n_subspaces` and `encode`, and trains. One that
    can also paint an image from codes is an `AutoencodingDisentangler`.

    Every training batch has torch's generators seeded from `(seed, epoch, batch, rank)`, where
    the seed is that of `seed_everything`: a resumed run goes on as the undisturbed one would
    have. Without `seed_everything` nothing is seeded.

    Args:
        lr: Learning rate; > 0.
        weight_decay: Weight decay; >= 0.
        optimizer: `adamw`, or `adam`, `sgd` or `lars` with an L2 penalty. The latter two have
            momentum 0.9; `lars` adapts the rate to each array of weights, and leaves biases and
            batch norms without adaptation and penalty.
        lr_schedule: `constant`, or `cosine` to zero over the training, step by step.
        warmup: Share of the training in which the learning rate rises from zero first, in [0, 1).

    Raises:
        ValueError: If `lr`, `weight_decay` or `warmup` is outside its range.

    References:
        LARS: You et al. 2017, arXiv 1708.03888.
    """

    code_name: str = "code"
    """What the codes are called in tables."""

    gives_features: ClassVar[bool] = False
    """Whether `encode_all` gives also `features`, those of a frozen network, shape (B, 1, F)."""

    principal_subspace: int | None
    """Index of the subspace that the model keeps for the principal factor; None for no such one."""

    def __init__(
        self,
        lr: float,
        weight_decay: float,
        optimizer: Literal["adamw", "adam", "sgd", "lars"],
        lr_schedule: LearningRateSchedule,
        warmup: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < lr < math.inf or not 0 <= weight_decay < math.inf:
            raise ValueError(
                f"lr is {lr} and weight_decay is {weight_decay}: lr must be positive, "
                "weight_decay must not be negative, and both finite."
            )
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is {warmup}: give a share of the training in [0, 1).")
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.warmup = warmup

    @property
    @abstractmethod
    def n_subspaces(self) -> int:
        """Number of subspaces K."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return the codes, shape (B, K, D), of images in [0, 1], shape (B, C, H, W)."""

    def encode_all(self, images: Tensor) -> dict[str, Tensor]:
        """Return the codes first, then what else there is to probe of the same images.

        Each by its name, shape (B, K, D'); images as `encode` takes them.
        """
        return {self.code_name: self.encode(images)}

    def refuse_labels(self, labels: NDArray[np.int64]) -> None:
        """Refuse principal labels of the training images, -1 for none, that are no use to it.

        Raises:
            UserError: If they are not.
        """

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> dict[str, Tensor]:
        """Return what `encode_all` gives of a batch, float32."""
        return {name: codes.float() for name, codes in self.encode_all(batch.images).items()}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the batch; a subclass that overrides this calls it."""
        reseed_batch(self.current_epoch, batch_idx, self.global_rank, self.device)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, with its schedule.

        Raises:
            ValueError: If a cosine schedule or a warm-up is given a training without end.
        """
        return schedule_learning_rate(
            self._build_optimizer(),
            self.lr_schedule,
            lambda: self.trainer.estimated_stepping_batches,
            self.warmup,
        )

    def _build_optimizer(self) -> Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                self.parameters(), lr=self.lr, momentum=0.9, weight_decay=self.weight_decay
            )
        if self.optimizer == "lars":
            return self._build_lars()
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        # Lightning does not clip gradients for fused optimisers in mixed precision.
        fused = not self.trainer.gradient_clip_val
        return kind(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused)

    def _build_lars(self) -> Optimizer:
        # Other optimisers do without it, and its import takes seconds.
        from timm.optim.lars import Lars

        weights: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self.named_parameters():
            # The biases of heads that are stacked have more than one dimension.
            plain = parameter.ndim <= 1 or name.endswith("bias")
            (others if plain else weights).append(parameter)
        groups = [
            # Without a penalty timm would not adapt, which makes LARS plain SGD.
            {"params": weights, "weight_decay": self.weight_decay, "always_adapt": True},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer: Optimizer = Lars(groups, lr=self.lr, momentum=0.9)
        return optimizer

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
        values = {f"{stage}/{name}": value for name, value in {"loss": total, **terms}.items()}
        if stage == "train":
            self.log_means(values, batch_size)
            return
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=batch_size)
