"""Schedules of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

LearningRateSchedule = Literal["constant", "cosine"]


def schedule_learning_rate(
    optimizer: Optimizer,
    schedule: LearningRateSchedule,
    steps: Callable[[], float],
    warmup: float = 0.0,
) -> OptimizerLRScheduler:
    """Return what `configure_optimizers` returns.

    Of T steps the first `n = floor(warmup * T)` have the share `1 / n, 2 / n, ..., 1` of the
    learning rate; the schedule has the other T - n to itself.

    Args:
        optimizer: The optimizer at its full learning rate.
        schedule: `constant`, or `cosine` to zero, step by step.
        steps: Gives the length of the training in optimizer steps, which Lightning must load data
            for; asked only where it counts.
        warmup: Share of the training in which the learning rate rises, in [0, 1).

    Raises:
        ValueError: If a cosine schedule has no end to fall to, or a warm-up is the share of a
            training without end.
    """
    if schedule == "constant" and warmup == 0:
        return optimizer
    total = steps()
    if not 0 < total < float("inf"):
        given = "lr_schedule is cosine" if schedule == "cosine" else f"warmup is {warmup}"
        raise ValueError(f"{given}: give the trainer max_epochs or max_steps.")
    n_steps = int(total)
    n_rising = int(warmup * n_steps)

    def share(step: int) -> float:
        if step < n_rising:
            return (step + 1) / n_rising
        if schedule == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step - n_rising) / (n_steps - n_rising))) / 2

    scheduler: LRScheduler
    if warmup == 0:
        scheduler = CosineAnnealingLR(optimizer, T_max=n_steps)
    else:
        scheduler = LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
