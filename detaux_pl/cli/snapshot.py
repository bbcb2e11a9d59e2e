"""Checkpoints within long epochs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

_STRIDE = 20
"""Steps between two looks at the clock where several ranks must agree, for which they wait."""


class Snapshot(Callback):
    """Save a checkpoint within an epoch whenever some time has passed since its start or the last.

    Not at the last batch of an epoch, where validation and what ends an epoch would be lost to
    the resumed run, and not between the batches whose gradients are accumulated.

    Args:
        path: The checkpoint, which is replaced as a whole.
        seconds: Time between two of them.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.seconds = seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, in mid-epoch too."""
        self._last = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock anew: epochs end with a checkpoint."""
        self._last = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save, if it is time."""
        step, rest = divmod(batch_idx + 1, trainer.accumulate_grad_batches)
        if trainer.is_last_batch or rest or (trainer.world_size > 1 and step % _STRIDE):
            return
        due = time.monotonic() - self._last >= self.seconds
        # All ranks save together, and their clocks differ.
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            trainer.save_checkpoint(self.path)
            self._last = time.monotonic()
