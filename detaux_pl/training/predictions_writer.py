"""What a network says of the validation and test images, kept while it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.data.batch import Batch
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.multitask.base import Answer

_KEPT = (TrainerFn.VALIDATING, TrainerFn.TESTING)
"""What the trainer does when batches are kept."""


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
        self.parts: dict[TrainerFn, list[Predictions]] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        if trainer.state.fn in _KEPT:
            self.parts[trainer.state.fn] = []

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
        if trainer.state.fn in _KEPT:
            self.parts[trainer.state.fn].append(self._predictions(outputs, batch))

    on_validation_start = on_test_start
    on_validation_batch_end = on_test_batch_end

    def write(self, trainer: Trainer) -> Predictions | None:
        """Write what all ranks kept to `predictions.npz`, each sample once; called by all of them.

        Returns:
            What is written; None but on the first rank.
        """
        own = Predictions.join([part for parts in self.parts.values() for part in parts])
        shards: list[Path] = []
        if trainer.world_size > 1:
            shards = [self.folder / f"predictions.rank{k}.npz" for k in range(trainer.world_size)]
            own.save(shards[trainer.global_rank])
            trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return None
        if shards:
            remedy = "train the arm again"
            own = Predictions.join([Predictions.load(shard, remedy) for shard in shards])
        own.save(self.folder / "predictions.npz")
        for shard in shards:
            shard.unlink()
        return own

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
