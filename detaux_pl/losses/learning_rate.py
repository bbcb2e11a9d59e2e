"""Schedules of the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

LearningRateSchedule = Literal["constant", "cosine"]


def schedule_learning_rate(
    optimizer: Optimizer, schedule: LearningRateSchedule, steps: Callable[[], float]
) -> OptimizerLRScheduler:
    """Return what `configure_optimizers` returns.

    Args:
        optimizer: The optimizer at its full learning rate.
        schedule: `constant`, or `cosine` to zero, step by step.
        steps: Gives the length of the training in optimizer steps, which Lightning must load data
            for; asked only where it counts.

    Raises:
        ValueError: If a cosine schedule has no end to fall to.
    """
    if schedule == "constant":
        return optimizer
    total = steps()
    if not 0 < total < float("inf"):
        raise ValueError("lr_schedule is cosine: give the trainer max_epochs or max_steps.")
    scheduler = CosineAnnealingLR(optimizer, T_max=int(total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
