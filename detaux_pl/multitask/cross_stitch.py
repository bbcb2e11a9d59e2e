"""Columns that mix their features channel by channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.multitask.base import OptimizerName
from detaux_pl.multitask.soft_parameter_sharing import SoftParameterSharing
from detaux_pl.multitask.weighting.base import Weighting


class CrossStitch(SoftParameterSharing):
    """Cross-stitch units: after every stage `x_t <- sum_u a_tu * x_u`, a learnt per channel.

    The stitches `a`, shape (T, T, channels), start at `own_share` where t = u and at
    `(1 - own_share) / (T - 1)` elsewhere; weight decay, which would pull them to 0, leaves them
    out.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        task_sizes: Number of classes of each task, the principal one first. Filled in from the
            data module by the command line.
        backbone: What each column is: `small_convnet`, `vgg16`, `resnet18`, `resnet34` or
            `resnet50`.
        pretrained: Start every column from ImageNet weights. Paper: from networks finetuned on
            each task alone.
        weighting: How the losses of the tasks are combined; None for equal weights.
        own_share: What a task's own features count for at the start, in (0, 1]. Paper: 0.9.
        lr_multiplier: Learning rate of the stitches over that of the others. Paper: 100 to 1000,
            with SGD.
        hidden: Width of the heads' hidden layer.
        dropout: Share of hidden units that are dropped in training.
        lr: Learning rate.
        weight_decay: Weight decay.
        optimizer: `adamw`, or `sgd` (paper) with momentum 0.9.
        lr_schedule: `constant`, or `cosine` from `lr` to 0 over all training steps.

    Raises:
        ValueError: If there is no auxiliary task, the backbone has no stages, the images are too
            small for it, or an argument is outside its range.

    Example:
        >>> import torch
        >>> model = CrossStitch((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]
        [(2, 10), (2, 4)]

    References:
        Misra et al. 2016, arXiv 1604.03539, section 3 (docs/methods.md, 'Architectures').
        The number of tasks is any here.
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
        lr: float = 5e-4,
        weight_decay: float = 5e-3,
        optimizer: OptimizerName = "adamw",
        lr_schedule: LearningRateSchedule = "constant",
    ) -> None:
        super().__init__(
            image_shape,
            task_sizes,
            backbone,
            pretrained,
            weighting,
            own_share,
            lr_multiplier,
            hidden,
            dropout,
            lr,
            weight_decay,
            optimizer,
            lr_schedule,
        )

    def build_exchange(self, n_channels: int) -> nn.Module:
        """Build the stitches after one stage."""
        return _Stitches(self.initial_shares(), n_channels)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; the stitches, the last, do not decay."""
        *groups, stitches = super().parameter_groups()
        return [*groups, stitches | {"weight_decay": 0.0}]


class _Stitches(nn.Module):
    def __init__(self, shares: Tensor, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(shares[..., None].repeat(1, 1, n_channels))

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # t = tasks that read, u = tasks that are read, c = channels, n = batch, h, w = places
        mixed = torch.einsum("tuc,unchw->tnchw", self.weight, torch.stack(maps))
        return mixed.unbind()
