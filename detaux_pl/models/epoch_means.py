"""What training steps log, as means over their epoch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning import LightningModule
from torch import Tensor


class EpochMeans(LightningModule):
    """A LightningModule whose training steps log nothing but means over the epoch.

    Lightning copies and checks every value that is logged, at every step, which takes a small net
    on a CPU an eighth of its time. Here they are added up, and logged once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def log_means(self, values: Mapping[str, Tensor], batch_size: int) -> None:
        """Take scalars of a batch into the means, and log these with the last batch.

        Args:
            values: What to log, by name; the mean is over the batches that had it.
            batch_size: Number of samples, by which batches weigh.
        """
        for name, value in values.items():
            # In half precision a sum stops growing, or overflows.
            wide = torch.promote_types(value.dtype, torch.float32)
            total = value.detach().to(wide) * batch_size
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._counts[name] = self._counts.get(name, 0) + batch_size
        if self.trainer.is_last_batch:
            self._log_sums()

    def on_train_epoch_end(self) -> None:
        """Log an epoch that ended early; a subclass that overrides this calls it."""
        self._log_sums()

    def _log_sums(self) -> None:
        for name, total in self._sums.items():
            n = self._counts[name]
            self.log(name, total / n, on_step=False, on_epoch=True, sync_dist=True, batch_size=n)
        self._sums, self._counts = {}, {}
