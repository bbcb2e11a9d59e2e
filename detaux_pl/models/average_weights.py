"""A moving average of the weights, which is what is evaluated."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class AverageWeights(WeightAveraging):
    """Keep the exponential moving average of weights and batch statistics, from step to step.

    After the first step the average is the weights; after each later one

        average <- d average + (1 - d) weights,  d = min(decay, (1 + n) / (10 + n)),

    where n is the number of weights that it is of, so that a short training is no average of its
    first steps. Validations are of the average, and checkpoints hold it as the model, beside the
    weights that the training goes on from. After the training the average is the model. It must
    come before what saves a checkpoint within an epoch.

    Args:
        decay: Largest d, in [0, 1).

    References:
        Polyak, Juditsky 1992; d as in `tf.train.ExponentialMovingAverage` with `num_updates`.
    """

    def __init__(self, decay: float) -> None:
        def update(averages: list[Tensor], weights: list[Tensor], n: Tensor) -> None:
            share = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
            for average, own in zip(averages, weights, strict=True):
                if average.is_floating_point():
                    average.lerp_(own, share)
                else:
                    average.copy_(own)

        super().__init__(multi_avg_fn=update)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the average where the model will be, which is not moved there yet."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from both weights; a test has those of the model, which are the average."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the average: a later validation is of the weights that the model has then."""
        self._average_model = None
