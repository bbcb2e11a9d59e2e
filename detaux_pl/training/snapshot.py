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

    Not at the last batch of an epoch or of the training, nor before a validation: it, and what
    ends an epoch, would be lost to the resumed run. Nor between the batches whose gradients are
    accumulated.

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
        seldom = trainer.world_size > 1 and step % _STRIDE
        if rest or seldom or _is_followed_by_more(trainer, batch_idx):
            return
        due = time.monotonic() - self._last >= self.seconds
        # All ranks save together, and their clocks differ.
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            trainer.save_checkpoint(self.path)
            self._last = time.monotonic()


def _is_followed_by_more(trainer: Trainer, batch_idx: int) -> bool:
    """Whether something comes after a batch that a resumed run would not do again."""
    if trainer.is_last_batch or 0 < trainer.max_steps <= trainer.global_step:
        return True
    # Without check_val_every_n_epoch, the interval is counted over all epochs.
    within = trainer.check_val_every_n_epoch is not None
    count = batch_idx if within else trainer.fit_loop.total_batch_idx
    interval = trainer.val_check_batch
    return interval is not None and (count + 1) % interval == 0
