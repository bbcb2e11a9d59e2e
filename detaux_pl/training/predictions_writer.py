"""What a network says of the validation and test images, kept while it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.data.batch import Batch
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.multitask.base import Answer


class PredictionsWriter(Callback):
    """Keep the probabilities of every task, of the images of a validation and of a test.

    The validations of a training are left out: `trainer.validate` and `trainer.test` are what is
    kept, the last of each.

    Args:
        folder: Folder of the training.
        dataset: Its images.
    """

    def __init__(self, folder: Path, dataset: FactorDataset) -> None:
        self.folder = folder
        self.dataset = dataset
        self.parts: dict[Literal["val", "test"], list[Predictions]] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self.parts["val"] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self.parts["test"] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch, unless it is of a validation within a training."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.parts["val"].append(self._predictions(outputs, batch))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        self.parts["test"].append(self._predictions(outputs, batch))

    def write(self, trainer: Trainer) -> Path:
        """Write what all ranks kept, each sample once; called by all of them.

        Returns:
            The file.
        """
        path = self.folder / "predictions.npz"
        own = [part for parts in self.parts.values() for part in parts]
        if trainer.world_size == 1:
            Predictions.join(own).save(path)
            return path
        shards = [self.folder / f"predictions.rank{k}.npz" for k in range(trainer.world_size)]
        Predictions.join(own).save(shards[trainer.global_rank])
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            remedy = "train the arm again"
            Predictions.join([Predictions.load(shard, remedy) for shard in shards]).save(path)
            for shard in shards:
                shard.unlink()
        trainer.strategy.barrier()
        return path

    def _predictions(self, answer: Answer, batch: Batch) -> Predictions:
        rows = batch.rows.cpu().numpy()
        return Predictions(
            self.dataset.ids[rows],
            self.dataset.splits[rows],
            answer["targets"].cpu().numpy(),
            {
                task: torch.softmax(logits.float(), dim=1).cpu().numpy().astype(np.float32)
                for task, logits in answer["logits"].items()
            },
        )
