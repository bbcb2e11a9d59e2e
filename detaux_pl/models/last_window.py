"""The last step of an epoch whose batches do not fill it."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule
from torch import Tensor


class MeanOverWindows(LightningModule):
    """A LightningModule whose every step is by the mean gradient of the batches in it.

    With `accumulate_grad_batches` = k Lightning 2.6 divides the gradients by k in the last step of
    an epoch, too, which has fewer batches where k does not divide them (issue 19987 of Lightning).
    """

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of a batch, for its share in the step."""
        k = self.trainer.accumulate_grad_batches
        if k > 1 and self.automatic_optimization:
            begun = self.trainer.fit_loop.epoch_loop.batch_idx // k * k
            n = min(k, self.trainer.num_training_batches - begun)
            if n < k:
                loss = loss * (k / n)
        super().backward(loss, *args, **kwargs)
