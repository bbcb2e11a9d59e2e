"""A progress bar that names the stage and spans its whole training."""

from __future__ import annotations

import os
import sys
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from detaux_pl.artifacts.terminal import terminal, words


class StageProgress(ProgressBar):
    """One bar for all epochs of a stage; silent where there is no terminal.

    Args:
        stage: Name to show.
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.enable()
        self._progress: Progress | None = None

    def disable(self) -> None:
        """Show nothing, as Lightning asks of all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar if there is a terminal, and no other process shows one on it."""
        alone = os.environ.get("DETAUX_STAGE", "alone") == "alone"
        self._enabled = alone and sys.stderr.isatty()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a bar of one step per epoch, or per optimizer step where only these are limited."""
        self._by_steps = trainer.max_epochs in (None, -1) and trainer.max_steps > 0
        if self._by_steps:
            self._start("train", trainer.max_steps, done=trainer.global_step)
        else:
            total = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None
            self._start("train", total, done=trainer.current_epoch)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Advance, where the bar is of steps."""
        if self._progress is not None and self._by_steps:
            self._progress.update(self._task, completed=trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Advance, and show the latest validation value."""
        if self._progress is None:
            return
        metrics = trainer.callback_metrics
        shown = "val/accuracy/principal" if "val/accuracy/principal" in metrics else "val/loss"
        note = f"{shown} {metrics[shown]:.3f}" if shown in metrics else ""
        self._progress.update(self._task, note=note)
        if not self._by_steps:
            self._progress.update(self._task, completed=trainer.current_epoch + 1)

    def on_train_end(self, *args: Any) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a bar of one step per batch."""
        self._start("predict", int(sum(trainer.num_predict_batches)))

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Advance."""
        if self._progress is not None:
            self._progress.advance(self._task)

    def on_predict_end(self, *args: Any) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def on_exception(self, *args: Any) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _start(self, what: str, total: int | None, done: int = 0) -> None:
        if not self._enabled:
            return
        self._progress = Progress(
            words("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            words("{task.fields[note]}"),
            console=terminal(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(
            f"{self.stage} · {what}", total=total, completed=done, note=""
        )
        self._progress.start()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
