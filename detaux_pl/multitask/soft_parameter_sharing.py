"""A network per task, coupled after every stage."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from detaux_pl.models.backbone import StageMaps, build_backbone
from detaux_pl.models.dry_run import dry_run
from detaux_pl.models.head import ClassificationHead
from detaux_pl.multitask.base import MultitaskModel, refuse_one_task
from detaux_pl.multitask.weighting.base import Weighting


class SoftParameterSharing(MultitaskModel):
    """A column and a head per task; after every stage the columns exchange what they have found.

    A column is a backbone with initial weights of its own, and each exchange turns the maps of
    all T tasks into T maps of the same shape. A subclass says how. Features that all tasks share
    are the maps before the last exchange, which is where the tasks part.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        backbone: What each column is: `small_convnet`, `vgg16`, `resnet18`, `resnet34` or
            `resnet50`.
        pretrained: Start every column from ImageNet weights. Papers: from networks finetuned on
            each task alone.
        own_share: What a task's own features count for in an exchange at the start, in (0, 1];
            the other tasks share the rest equally. Papers: 0.9.
        lr_multiplier: Learning rate of the exchanges over that of the columns and heads.
        hidden: Width of the heads' hidden layer.
        dropout: Share of hidden units that are dropped in training.

    Raises:
        ValueError: If there is no auxiliary task, the backbone has no stages, the images are too
            small for it, or an argument is outside its range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        weighting: Weighting | None = None,
        own_share: float = 0.9,
        lr_multiplier: float = 1.0,
        hidden: int = 512,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        refuse_one_task(type(self).__name__, task_sizes)
        if not 0.0 < own_share <= 1.0:
            raise ValueError(f"own_share is {own_share}: give a share in (0, 1].")
        if lr_multiplier <= 0:
            raise ValueError(f"lr_multiplier is {lr_multiplier}: it must be positive.")
        super().__init__(task_sizes, weighting, **kwargs)
        self.own_share = own_share
        self.lr_multiplier = lr_multiplier
        self.columns = nn.ModuleList()
        self.heads = nn.ModuleList()
        for size in task_sizes:
            column = StageMaps(build_backbone(backbone, image_shape, pretrained))
            maps: tuple[Tensor, ...] = dry_run(column, image_shape)
            self.columns.append(column)
            n_features = math.prod(maps[-1].shape)
            self.heads.append(ClassificationHead(n_features, size, hidden, dropout))
        self.stage_channels = tuple(stage.shape[1] for stage in maps)
        self.exchanges = nn.ModuleList(self.build_exchange(n) for n in self.stage_channels)

    @abstractmethod
    def build_exchange(self, n_channels: int) -> nn.Module:
        """Build what maps T maps, shape (B, n_channels, H, W) each, to T maps of that shape."""

    def initial_shares(self) -> Tensor:
        """Return what each task (rows) takes from each (columns) at the start, shape (T, T)."""
        n_tasks = len(self.columns)
        shares = torch.full((n_tasks, n_tasks), (1 - self.own_share) / (n_tasks - 1))
        return shares.fill_diagonal_(self.own_share)

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the map of each task before the last exchange, shape (B, C', H', W')."""
        return self.run_columns(images)[-1]

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size)."""
        maps = self.exchanges[-1](features)
        return tuple(head(own.flatten(1)) for head, own in zip(self.heads, maps, strict=True))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the columns and of all exchanges but the last."""
        coupled = nn.ModuleList([*self.columns, *self.exchanges[:-1]])
        return list(coupled.parameters())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; the last is that of the exchanges."""
        exchanges = list(self.exchanges.parameters())
        apart = {id(parameter) for parameter in exchanges}
        groups = super().parameter_groups()
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in apart]
        return [*groups, {"params": exchanges, "lr": self.lr * self.lr_multiplier}]

    def run_columns(self, images: Tensor) -> list[tuple[Tensor, ...]]:
        """Return the T maps after each exchange and, at the end, those before the last one."""
        stages: list[tuple[Tensor, ...]] = []
        maps = (images,) * len(self.columns)
        for number, parallel in enumerate(zip(*self.columns, strict=True), 1):
            maps = tuple(stage(own) for stage, own in zip(parallel, maps, strict=True))
            if number < len(self.exchanges):
                maps = self.exchanges[number - 1](maps)
            stages.append(maps)
        return stages
