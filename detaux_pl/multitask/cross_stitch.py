"""Columns that mix their features channel by channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detaux_pl.multitask.soft_parameter_sharing import SoftParameterSharing


class CrossStitch(SoftParameterSharing):
    """Cross-stitch units: after every stage `x_t <- sum_u a_tu * x_u`, a learnt per channel.

    The stitches `a`, shape (T, T, channels), start at `own_share` where t = u and at
    `(1 - own_share) / (T - 1)` elsewhere; weight decay, which would pull them to 0, leaves them
    out.

    Args:
        lr_multiplier: Learning rate of the stitches over that of the others. Paper: 100 to 1000,
            with SGD.

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
