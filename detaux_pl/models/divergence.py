"""The watch over a training: one whose loss or weights are no longer finite ends at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from detaux_pl.artifacts.errors import Diverged

_STRIDE = 64
"""Batches between two looks at their losses: a look waits for the device, a batch does not."""
_PATIENCE = 8
"""Losses in a row that are not finite, after which a training is given up though its weights still
are: the scaler of `16-mixed` leaves such a step out, and the next batch may be well again."""


class DivergenceWatch(Callback):
    """End a training that has diverged, before a checkpoint of it is written.

    It has where its weights, or the running statistics of its batch norms, are not finite, or where
    that many losses in a row are not. The losses of the batches are kept on their device and looked
    at together, every `_STRIDE` batches; the weights are looked at with the first of them that is
    not finite, at the end of each epoch, and before every validation and checkpoint. All ranks end
    together. A checkpoint that holds weights of before, which were not finite either, is not gone
    on from, and no codes are written by them.

    Args:
        where: What is trained, for the message: the path of a stage in its run folder.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._losses: list[tuple[tuple[int, int], Tensor]] = []
        self._since: tuple[int, int] | None = None
        self._in_a_row = 0
        self._last: tuple[int, int] | None = None
        self._model: LightningModule | None = None

    @contextmanager
    def explaining(self, trainer: Trainer) -> Iterator[None]:
        """Within it, an error of a training that has diverged says so: NaN makes many of them.

        Args:
            trainer: The trainer that has this watch.

        Raises:
            Diverged: If it has.
        """
        try:
            yield
        except Diverged:
            raise
        except Exception as error:
            if self._model is not None and self._has_diverged(self._model, thorough=True):
                raise self._error(trainer, self._model) from error
            raise

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to go on from what has diverged, even to the end of a training that was done."""
        self._losses, self._since, self._in_a_row = [], None, 0
        self._last, self._model = None, pl_module
        self._end_if(not _is_finite(pl_module), trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the loss, and look at those kept if there are many."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self._last = place = trainer.current_epoch, trainer.global_step
        if isinstance(loss, Tensor):
            self._losses.append((place, loss.detach()))
        if (batch_idx + 1) % _STRIDE == 0:
            self._look(trainer, pl_module, thorough=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the model ends its epoch, which may compute with what it has gathered."""
        self._look(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before a validation in a training; refuse weights that are not finite."""
        if trainer.state.fn == "fit":
            self._look(trainer, pl_module)
        else:
            self._end_if(not _is_finite(pl_module), trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to test weights that are not finite."""
        self._end_if(not _is_finite(pl_module), trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look before whatever writes a checkpoint does so; all ranks come here."""
        self._look(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to predict by weights that are not finite."""
        self._end_if(not _is_finite(pl_module), trainer, pl_module)

    def _look(self, trainer: Trainer, model: LightningModule, thorough: bool = True) -> None:
        if self._losses:  # else nothing was trained since the last look
            self._end_if(self._has_diverged(model, thorough), trainer, model)

    def _end_if(self, bad: bool, trainer: Trainer, model: LightningModule) -> None:
        # Ranks have losses of their own, and one that went on would wait for the others for ever.
        if trainer.strategy.reduce_boolean_decision(bad, all=False):
            raise self._error(trainer, model)

    def _has_diverged(self, model: LightningModule, thorough: bool) -> bool:
        """Take in the losses kept; `thorough`, look at the weights though all are finite."""
        places = [place for place, _ in self._losses]
        finite: list[bool] = []
        if places:
            finite = torch.stack([loss.float() for _, loss in self._losses]).isfinite().tolist()
        self._losses = []
        for place, good in zip(places, finite, strict=True):
            self._in_a_row = 0 if good else self._in_a_row + 1
            self._since = None if good else self._since or place
        look = thorough or not all(finite)
        return self._in_a_row >= _PATIENCE or (look and not _is_finite(model))

    def _error(self, trainer: Trainer, model: LightningModule) -> Diverged:
        place = self._since or self._last
        what = "weights are" if self._since is None else "loss is"
        since = "" if place is None else f" since step {place[1]} (epoch {place[0]})"
        rates = [f"{k} is {v}" for k, v in vars(model).items() if k == "lr" or k.endswith("_lr")]
        own = f" ({', '.join(rates)})" if rates else ""
        tries = [f"lower the learning rate{own}"]
        if model.automatic_optimization:
            clip = trainer.gradient_clip_val
            now = "" if clip is None else f", which is {clip}"
            tries.append(f"clip its gradients (trainer.gradient_clip_val{now})")
        if not str(trainer.precision).startswith(("32", "64")):
            tries.append(f"train in 32 bits (trainer.precision is {trainer.precision})")
        *first, last = tries
        advice = f"{', '.join(first)} or {last}" if first else last
        return Diverged(
            self.where,
            f"the training diverged, its {what} not finite{since}: {advice}.",
            {} if place is None else {"epoch": place[0], "step": place[1]},
        )


def refuse_loss(where: str, loss: float, trainer: Trainer) -> None:
    """Refuse a network whose answers are not finite, though its weights are.

    Args:
        where: What was trained.
        loss: Its loss in evaluation, or another number that follows from all answers.
        trainer: What evaluated it.

    Raises:
        Diverged: If it is not.
    """
    if not math.isfinite(loss):
        raise Diverged(
            where,
            f"what the trained network says of images is not finite ({loss}): lower the learning "
            f"rate, or train in 32 bits (trainer.precision is {trainer.precision}).",
        )


@torch.no_grad()
def _is_finite(model: nn.Module) -> bool:
    """Whether all weights and running statistics are finite, by one look at the device."""
    running = (
        buffer
        for name, buffer in model.named_buffers()
        if name.endswith(("running_mean", "running_var"))
    )
    values = [
        each.detach()
        for each in (*model.parameters(), *running)
        if each.is_floating_point() and each.numel()
    ]
    # The largest of the magnitudes: a sum of squares may overflow though no weight has.
    return not values or bool(torch.nn.utils.get_total_norm(values, math.inf).isfinite())
