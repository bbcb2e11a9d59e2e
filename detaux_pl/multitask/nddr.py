"""Columns whose features are fused by learnt dimensionality reduction."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detaux_pl.multitask.soft_parameter_sharing import SoftParameterSharing


class NDDR(SoftParameterSharing):
    """Neural discriminative dimensionality reduction: every task reads all tasks' features.

    After every stage each task t replaces its features, c channels, by
    `x_t <- ReLU(BN_t(W_t [x_1, ..., x_T]))`: a convolution of 1 x 1 without bias from the T c
    channels of all tasks to c. At the start `W_t` takes `own_share` of each of its own channels
    and `(1 - own_share) / (T - 1)` of the same channel of each other task.

    The paper trains with SGD, a learning rate of 1e-3 and a weight decay of 5e-4.

    Args:
        shortcut: Let each head read the maps of all stages: resized to the last one, joined and
            reduced to its channels by a convolution of 1 x 1.
        lr_multiplier: Learning rate of the fusing layers over that of the others. None: 100
            (paper) with `sgd`, whose small rate would leave new layers behind finetuned columns;
            1 with `adamw`, whose steps have the length of the rate whatever the gradient, so that
            100 would move weights of 0.1 and 0.9 by 0.05 in each.

    Raises:
        ValueError: If there is no auxiliary task, the backbone has no stages, the images are too
            small for it, or an argument is outside its range.

    Example:
        >>> model = NDDR((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]
        [(2, 10), (2, 4)]

    References:
        Gao et al. 2019, "NDDR-CNN", arXiv 1801.08297 (docs/methods.md, 'Architectures').
        Differs in: heads are not given a
        higher learning rate, and a cosine takes the place of a polynomial schedule.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        shortcut: bool = False,
        lr_multiplier: float | None = None,
        **kwargs: Any,
    ) -> None:
        chosen = 1.0 if lr_multiplier is None else lr_multiplier
        super().__init__(image_shape, task_sizes, backbone, lr_multiplier=chosen, **kwargs)
        if lr_multiplier is None and self.optimizer == "sgd":
            self.lr_multiplier = 100.0
        n_last, n_all = self.stage_channels[-1], sum(self.stage_channels)
        self.shortcuts = nn.ModuleList(
            nn.Conv2d(n_all, n_last, kernel_size=1, bias=False) for _ in task_sizes if shortcut
        )

    def build_exchange(self, n_channels: int) -> nn.Module:
        """Build the fusing layers of all tasks after one stage."""
        return _Fusion(self.initial_shares(), n_channels)

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the map of each task before the last exchange, shape (B, C', H', W').

        With `shortcut` those after all the earlier ones follow, stage by stage.
        """
        *earlier, last = self.run_columns(images)
        return (*last, *chain.from_iterable(earlier)) if self.shortcuts else last

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size)."""
        if not self.shortcuts:
            return super().classify(features)
        n_tasks = len(self.heads)
        last: tuple[Tensor, ...] = self.exchanges[-1](features[:n_tasks])
        size = last[0].shape[2:]
        logits = []
        for task, (reduce, head) in enumerate(zip(self.shortcuts, self.heads, strict=True)):
            earlier = (_resize(own, size) for own in features[n_tasks + task :: n_tasks])
            logits.append(head(reduce(torch.cat([*earlier, last[task]], dim=1)).flatten(1)))
        return tuple(logits)


class _Fusion(nn.Module):
    """The fusing layers of T tasks, as one convolution and one batch norm of T c channels."""

    def __init__(self, shares: Tensor, n_channels: int) -> None:
        super().__init__()
        n_all = len(shares) * n_channels
        self.convolution = nn.Conv2d(n_all, n_all, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(n_all, momentum=0.05)
        weight = torch.kron(shares, torch.eye(n_channels))
        self.convolution.weight.data.copy_(weight[..., None, None])

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        fused = F.relu(self.norm(self.convolution(torch.cat(maps, dim=1))))
        return fused.chunk(len(maps), dim=1)


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
