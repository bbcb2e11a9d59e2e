"""The codes of a data set, written while they are predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from detaux_pl.artifacts.codes import CodesShard, write_codes_info
from detaux_pl.artifacts.errors import Diverged
from detaux_pl.data.batch import Batch
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.disentangle.base import Disentangler


class CodesWriter(BasePredictionWriter):
    """Write the codes of this rank as they come, and what else comes, to its own shard."""

    def __init__(self, folder: Path, data: FactorDataModule, model: Disentangler) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder
        self.data = data
        self.model = model
        self.names: tuple[str, ...] = (model.code_name,)
        self.shard: CodesShard | None = None

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Mapping[str, torch.Tensor],
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append the arrays of a batch, shape (B, K, D) each, the codes first."""
        dataset = self.data.dataset
        if self.shard is None:
            loader: Any = trainer.predict_dataloaders
            total = sum(len(rows) for rows in loader.sampler)
            shapes = {name: tuple(values.shape[1:]) for name, values in prediction.items()}
            self.names = tuple(shapes)
            self.shard = CodesShard(self.folder, trainer.global_rank, total, shapes)
        rows = batch.rows.cpu().numpy()
        arrays = {name: values.float().cpu().numpy() for name, values in prediction.items()}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise Diverged(
                    str(self.folder),
                    f"{name} of images holds NaN or infinite values, of which no stage can make "
                    "anything: train the disentangler again with a lower learning rate, or in 32 "
                    f"bits (trainer.precision is {trainer.precision}).",
                )
        self.shard.append(
            arrays,
            dataset.ids[rows],
            dataset.splits[rows],
            dataset.factors[rows],
        )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is pending, and once for all ranks what the columns mean."""
        if self.shard is not None:
            self.shard.close()
        if trainer.is_global_zero:
            # Only now: a checkpoint, which the trainer loads, may say which subspace it is.
            principal = self.model.principal_subspace
            info = replace(self.data.dataset.info, principal_subspace=principal)
            write_codes_info(self.folder, info, len(self.data.dataset), self.names)
