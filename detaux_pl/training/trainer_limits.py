"""Settings of Lightning's trainer that leave a stage without what it is to leave behind."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from detaux_pl.artifacts.errors import UserError

_LOGGED = {
    "disentangle": (r"(train|val)/.+", "val/loss, or another that the model logs under train/ or"),
    "multitask": (
        r"train/.+|val/(loss/principal|worst_group|(accuracy|f1)/(principal|auxiliary\d*))",
        "val/accuracy/principal, val/f1/principal, val/loss/principal, or another under train/ or",
    ),
}
"""What a stage logs by epoch, and what a message names of it."""
_NEEDED = {
    # It is not chosen by a validation, nor tested.
    "disentangle": ("limit_train_batches",),
    "multitask": ("limit_train_batches", "limit_val_batches", "limit_test_batches"),
}
"""Limits that may not be 0."""


class TestAhead(Callback):
    """Refuse, before a network is trained, that there is nothing to test it on."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for the test split, and how much of it is left.

        Raises:
            UserError: If it is empty, or `limit_test_batches` leaves no batch of it.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        n_batches, limit = len(data.test_dataloader()), trainer.limit_test_batches
        if isinstance(limit, float) and n_batches * limit < 1:
            raise UserError(
                f"multitask.trainer.limit_test_batches is {limit} of {n_batches} batch(es), which "
                "leaves none: give a number of batches, or a larger share."
            )


def refuse_trainer(stage: str, trainer: Mapping[str, Any]) -> None:
    """Refuse what leaves a stage without an epoch, a validation, a test or a checkpoint.

    What depends on how many batches there are, or on the time they take, is not known yet.

    Args:
        stage: `disentangle` or `multitask`.
        trainer: The resolved settings of the trainer.

    Raises:
        UserError: If something does.
    """
    for name, why in _unusable(stage, trainer):
        raise UserError(f"{stage}.trainer.{name} is {trainer[name]!r}: {why}.")
    for callback in _callbacks(trainer):
        monitor = (callback.get("init_args") or {}).get("monitor")
        pattern, named = _LOGGED[stage]
        if isinstance(monitor, str) and not re.fullmatch(pattern, monitor):
            name = str(callback.get("class_path")).rsplit(".", 1)[-1]
            raise UserError(
                f"{stage}.trainer.callbacks: {name} monitors {monitor!r}, which nothing logs: "
                f"give {named} val/."
            )


def _unusable(stage: str, trainer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give the settings that cannot be honoured, and what to do instead."""
    epochs, every = trainer["max_epochs"], trainer["check_val_every_n_epoch"]
    if epochs is not None and epochs != -1 and epochs < 1:
        yield "max_epochs", "give at least 1, or -1 for no end by epochs"
    if trainer["max_steps"] != -1 and trainer["max_steps"] < 1:
        yield "max_steps", "give at least 1, or -1 for no end by steps"
    if trainer["overfit_batches"]:
        yield (
            "overfit_batches",
            "it would replace the order of our batches: set limit_train_batches to the number of "
            "batches to overfit",
        )
    limits = {"limit_train_batches": "training", "limit_val_batches": "validation"}
    limits |= {"limit_test_batches": "test", "limit_predict_batches": "prediction"}
    for name, what in limits.items():
        value = trainer[name]
        if value is None:
            continue
        if not math.isfinite(value) or value < 0 or (value > 1 and value % 1):
            yield name, "give a number of batches, or a share of them from 0.0 to 1.0"
        if not value and name in _NEEDED[stage]:
            yield name, f"no batch of the {what} is left: give at least 1, or a share above 0.0"
    predicted = trainer["limit_predict_batches"]
    if stage == "disentangle" and predicted is not None and repr(predicted) != "1.0":
        yield "limit_predict_batches", "codes are of every image: leave it out"
    if every is not None and every < 1:
        yield "check_val_every_n_epoch", "give at least 1 epoch, or null to count batches"
    if stage == "multitask" and every is not None and epochs not in (None, -1) and every > epochs:
        yield (
            "check_val_every_n_epoch",
            f"the best epoch is chosen by validation, and there are {epochs} epochs: give at most "
            "as many",
        )
    interval = trainer["val_check_interval"]
    if isinstance(interval, int | float) and not (
        0 < interval <= 1 or interval % 1 == 0 < interval
    ):
        yield "val_check_interval", "give a number of batches, or a share of an epoch up to 1.0"
    if trainer["accumulate_grad_batches"] < 1:
        yield "accumulate_grad_batches", "give at least 1 batch"
    clip = trainer["gradient_clip_val"]
    if clip is not None and not 0 <= clip < math.inf:
        yield "gradient_clip_val", "give a positive number, or null to leave gradients as they are"


def _callbacks(trainer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    given = trainer["callbacks"]
    for each in given if isinstance(given, list) else [given]:
        if isinstance(each, Mapping):
            yield each
