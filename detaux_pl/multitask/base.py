"""What all multi-task models share: losses, weighting, metrics and the optimizer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypedDict, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.data.batch import Batch
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.losses.learning_rate import LearningRateSchedule, schedule_learning_rate
from detaux_pl.models.average_weights import AverageWeights
from detaux_pl.models.epoch_means import EpochMeans
from detaux_pl.models.last_window import MeanOverWindows
from detaux_pl.models.resize import seen_at_once
from detaux_pl.models.seeding import reseed_batch
from detaux_pl.multitask.cells import MOST, WorstCell, cell_of
from detaux_pl.multitask.recipe import Recipe
from detaux_pl.multitask.weighting.base import Shared, Weighting
from detaux_pl.multitask.weighting.equal import EqualWeighting

OptimizerName = Literal["adamw", "sgd"]
PIXELS_EVALUATED = 2**21
"""Pixels that a network sees at a time without a training: 512 images of 64 x 64, 41 of 224 x 224.

A whole batch of evaluation is 256 images, whose maps at 224 x 224 take gigabytes."""


class Answer(TypedDict):
    """What a validation or test step returns."""

    logits: dict[str, Tensor]
    """By task, shape (B, task size)."""
    targets: Tensor
    """Labels, int64, shape (B, T), or `IGNORED`."""


class MultitaskModel(EpochMeans, MeanOverWindows, ABC):
    """Classify an image in T tasks, of which task 0, the principal one, is what counts.

    An architecture is a subclass that builds its networks and says how images become features
    that all tasks read, and features the logits of each task; it builds what the principal task
    needs first, so that under one seed it starts from the same weights as the other
    architectures. The weighting of the tasks is a part of its own. Logs

    - `train/loss` (weighted), `train/loss/<task>` and, for several tasks, `train/weight/<task>`;
    - `val/loss/principal` and, per task, `val/accuracy/<task>` (micro) and `val/f1/<task>`
      (macro), and the same for `test`;
    - for several tasks, `val/worst_group`: the accuracy of the principal task in the worst cell,
      class × group, see `worst_accuracy`; not of more than 1,000,000 cells.

    Tasks are named `principal` and `auxiliary`, or `auxiliary1`, `auxiliary2` and so on where
    there are several. Checkpoints should be chosen by `monitor` alone.

    The weighting is a module and therefore not among the hyper-parameters of a checkpoint, nor is
    the recipe, which is of the training alone: give it again, as in
    `load_from_checkpoint(path, weighting=FixedWeighting([10.0, 1.0]))`, unless it is the default.

    Args:
        task_sizes: Number of classes of each task, the principal one first. Filled in from the
            data module by the command line.
        weighting: How the losses of the tasks are combined; None for equal weights.
        lr: Learning rate. Detaux: 5e-4.
        weight_decay: Weight decay, from which the weighting's parameters are excluded. Detaux's
            official code: 5e-3.
        optimizer: `adamw` (Detaux), or `sgd` with momentum 0.9.
        lr_schedule: `constant`, or `cosine` from `lr` to 0 over all training steps.
        recipe: Mixing of images, smoothing of labels and the like; None for none of it.

    Raises:
        ValueError: If a task has fewer than 2 classes, or the weighting is for another number
            of tasks.
    """

    uses_auxiliary: ClassVar[bool] = True
    """Whether the model learns the auxiliary labels, so that a chain must discover them first."""
    trained: ClassVar[bool] = True
    """Whether steps train it; else it is fitted as a whole, and no parameter is shared."""
    monitor: ClassVar[str] = "val/accuracy/principal"
    """What is logged that is largest in the best epoch."""
    balanced: ClassVar[bool] = False
    """Whether it is trained on as many images of each class in each group, see `draw_balanced`."""
    refitted: ClassVar[bool] = False
    """Whether the weights of the best epoch are fitted anew, by `refit`."""

    def __init__(
        self,
        task_sizes: tuple[int, ...],
        weighting: Weighting | None = None,
        lr: float = 5e-4,
        weight_decay: float = 5e-3,
        optimizer: OptimizerName = "adamw",
        lr_schedule: LearningRateSchedule = "constant",
        recipe: Recipe | None = None,
    ) -> None:
        super().__init__()
        if not task_sizes or min(task_sizes) < 2:
            raise ValueError(f"task_sizes are {task_sizes}: every task needs at least 2 classes.")
        if not 0 < lr < math.inf or not 0 <= weight_decay < math.inf:
            raise ValueError(
                f"lr is {lr} and weight_decay is {weight_decay}: lr must be positive, "
                "weight_decay must not be negative, and both finite."
            )
        self.save_hyperparameters(ignore=["weighting", "recipe"])
        self.task_names = _task_names(len(task_sizes))
        self.sizes = tuple(task_sizes)
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.recipe = Recipe() if recipe is None else recipe
        self._shares = (1.0, 0.0)
        self.weighting = EqualWeighting() if weighting is None else weighting
        self.weighting.setup(len(task_sizes))
        self.metrics = nn.ModuleDict()
        for stage in ("val", "test"):
            # Lightning's own mean over ranks rounds the number of samples down to an integer.
            self.metrics[f"{stage}/loss/principal"] = MeanMetric()
            for task, size in zip(self.task_names, task_sizes, strict=True):
                self.metrics[f"{stage}/accuracy/{task}"] = MulticlassAccuracy(
                    size, average="micro", ignore_index=IGNORED
                )
                self.metrics[f"{stage}/f1/{task}"] = MulticlassF1Score(
                    size, average="macro", ignore_index=IGNORED
                )
        if len(task_sizes) > 1 and math.prod(task_sizes) <= MOST:
            self.metrics["val/worst_group"] = WorstCell(math.prod(task_sizes))

    def setup(self, stage: str) -> None:
        """Tell the data how the training images are to be drawn."""
        if (data := self.labelled_data()) is not None:
            data.balanced = len(self.sizes) if self.balanced else int(self.recipe.balance)

    def averaging(self) -> list[Callback]:
        """Return what averages the weights, if anything; the trainer needs it before others."""
        return [AverageWeights(self.recipe.ema)] if self.recipe.ema else []

    def refit(self, data: LabelledDataModule) -> None:
        """Fit the weights of the best epoch to what is left, where the model is one of these."""

    def labelled_data(self) -> LabelledDataModule | None:
        """Return the data module of the trainer; None where it is of another kind, or none."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return data if isinstance(data, LabelledDataModule) else None

    @abstractmethod
    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the last features that the loss of every task depends on.

        Args:
            images: Float images in [0, 1], shape (B, C, H, W).

        Returns:
            One tensor or several, of B rows each.
        """

    @abstractmethod
    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size), from what `represent` returned."""

    @abstractmethod
    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters behind `represent`: those that the loss of every task trains."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size).

        Args:
            images: Float images in [0, 1], shape (B, C, H, W).
        """
        return self.classify(self.represent(images))

    def task_losses(self, features: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Return the training loss of each task, shape (T,).

        Args:
            features: What `represent` returned.
            targets: Labels, shape (B, T), or `IGNORED`; of mixed images shape (B, T, 2).
        """
        return self.cross_entropies(self.classify(features), targets)

    def cross_entropies(self, logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the `cross_entropy` of each task, shape (T,).

        Args:
            logits: Of each task, shape (B, task size).
            targets: As `task_losses` takes them.
        """
        return torch.stack(
            [self.cross_entropy(z, y) for z, y in zip(logits, targets.unbind(1), strict=True)]
        )

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss of a task, its labels smoothed as the recipe says [nats].

        Args:
            logits: Shape (B, classes).
            labels: Shape (B,), or `IGNORED`; of mixed images shape (B, 2).
        """
        smoothing = self.recipe.smoothing
        return self.mean_over_shares(lambda y: mean_cross_entropy(logits, y, smoothing), labels, 1)

    def mean_over_shares(
        self, loss: Callable[[Tensor], Tensor], labels: Tensor, dims: int
    ) -> Tensor:
        """Return the loss of labels, or of mixed images that of both, by their shares.

        It is linear in the targets, so that this is the loss of mixed targets.

        Args:
            loss: Of labels.
            labels: Labels, of mixed images with both in a last dimension of 2.
            dims: Number of dimensions of labels that are not mixed.
        """
        if labels.ndim == dims:
            return loss(labels)
        own, other = labels.unbind(-1)
        return self._shares[0] * loss(own) + self._shares[1] * loss(other)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make the batch's randomness a function of the seed, its place and the rank."""
        reseed_batch(self.current_epoch, batch_idx, self.global_rank, self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the weighted loss."""
        images, targets = batch.images, self._own_targets(batch)
        if self.recipe.mixes:
            images, share = self.recipe.mix(images)
            self._shares = share, 1 - share
            targets = torch.stack([targets, targets.roll(1, 0)], dim=-1)
        features = self.represent(images)
        losses = self.task_losses(features, targets)
        loss: Tensor = self.weighting(losses, Shared(features, self.shared_parameters()))
        logged = {"train/loss": loss}
        for task, value, weight in zip(
            self.task_names, losses.detach(), self.weighting.weights.detach(), strict=True
        ):
            logged[f"train/loss/{task}"] = value
            if len(self.task_names) > 1:
                logged[f"train/weight/{task}"] = weight
        self.log_means(logged, len(batch.images))
        return loss

    def on_train_epoch_end(self) -> None:
        """Tell the weighting, as some weigh by the losses of whole epochs."""
        super().on_train_epoch_end()
        self.weighting.end_epoch()

    def validation_step(self, batch: Batch, batch_idx: int) -> Answer:
        """Log the principal loss and the metrics of every task, and return what it was asked."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Answer:
        """Log the principal loss and the metrics of every task, and return what it was asked."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, ...]:
        """Return the logits of each task."""
        return self.answer(batch)

    def answer(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size), for a batch of the data."""
        pieces = [self(piece) for piece in seen_at_once(self, batch.images, PIXELS_EVALUATED)]
        return tuple(torch.cat(logits) for logits in zip(*pieces, strict=True))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; learnt weights of tasks do not decay."""
        weighting = list(self.weighting.parameters())
        apart = {id(parameter) for parameter in weighting}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters() if id(p) not in apart]},
            {"params": weighting, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and the schedule that were asked for, step by step.

        Raises:
            ValueError: If a cosine schedule has no end to fall to, or a warm-up no length.
        """
        groups = self.parameter_groups()
        optimizer: torch.optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                groups, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay
            )
        else:
            # Lightning does not clip gradients for fused optimisers in mixed precision.
            optimizer = torch.optim.AdamW(
                groups,
                lr=self.lr,
                weight_decay=self.weight_decay,
                fused=not self.trainer.gradient_clip_val,
            )
        return schedule_learning_rate(
            optimizer,
            self.lr_schedule,
            lambda: self.trainer.estimated_stepping_batches,
            self.recipe.warmup,
        )

    def _evaluate(self, batch: Batch, stage: Literal["val", "test"]) -> Answer:
        logits = self.answer(batch)
        own = self._own_targets(batch)
        targets = own.unbind(1)
        n = len(batch.images)
        loss = self._metric(f"{stage}/loss/principal")
        loss.update(mean_cross_entropy(logits[0], targets[0]), weight=n)
        logged = {f"{stage}/loss/principal": loss}
        for task, z, y in zip(self.task_names, logits, targets, strict=True):
            for key in (f"{stage}/accuracy/{task}", f"{stage}/f1/{task}"):
                logged[key] = self._metric(key)
                if n:  # a rank may run out of images before the others
                    logged[key].update(z, y)
        if f"{stage}/worst_group" in self.metrics:
            logged["val/worst_group"] = worst = self._metric("val/worst_group")
            worst.update(logits[0].argmax(dim=1) == targets[0], cell_of(own, self.sizes))
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=n)
        return {"logits": dict(zip(self.task_names, logits, strict=True)), "targets": own}

    def _metric(self, key: str) -> Metric:
        return cast(Metric, self.metrics[key])

    def _own_targets(self, batch: Batch) -> Tensor:
        """Labels of the tasks that the model has, shape (B, T)."""
        return batch.targets[:, : len(self.task_names)]


def mean_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy of one task, summed over its labelled samples, over the batch size [nats].

    A sample that is left out counts as zero, so that every label weighs the same in whatever
    batch it falls: the gradients of two half batches average to that of the whole one, and a
    batch without any label gives a zero that is still connected to the network.

    Args:
        logits: Shape (B, classes).
        targets: Labels, int64, shape (B,), or `IGNORED`.
        smoothing: Share of each target that goes to all classes alike.
    """
    total = F.cross_entropy(
        logits, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    return total / max(len(targets), 1)


def refuse_one_task(architecture: str, task_sizes: tuple[int, ...]) -> None:
    """Check the number of tasks, for an architecture that shares between them.

    Raises:
        ValueError: If there is one task.
    """
    if len(task_sizes) < 2:
        raise ValueError(
            f"{architecture} shares between tasks, and the data have the principal one only: give "
            "the data module `labels` or an `auxiliary` factor, or take SingleTask."
        )


def _task_names(n_tasks: int) -> tuple[str, ...]:
    if n_tasks <= 2:
        return ("principal", "auxiliary")[:n_tasks]
    return ("principal", *(f"auxiliary{task}" for task in range(1, n_tasks)))
