"""Networks that answer with fewer passes over their activations than they were trained with."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fused(net: nn.Module) -> nn.Module:
    """Return a network whose batch norms are part of the convolutions before them.

    A batch norm that follows a convolution within `nn.Sequential` scales and shifts each of its
    channels, which its weights can do. Answers differ by rounding alone. Elsewhere the order of two
    layers is known to the forward pass only, so that they stay as they are.

    Args:
        net: In evaluation mode. It stays as it is, and the result shares all its other weights.
    """
    return _copy(net, {})


def _copy(module: nn.Module, seen: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in seen:
        seen[module] = twin = copy.copy(module)
        twin._modules = {
            name: child and _copy(child, seen) for name, child in module._modules.items()
        }
        if isinstance(module, nn.Sequential):
            _fuse_neighbours(twin)
    return seen[module]


def _fuse_neighbours(layers: nn.Module) -> None:
    for (first, conv), (second, norm) in pairwise(list(layers._modules.items())):
        # Subclasses may do more, as timm's batch norms that hold an activation.
        if (
            type(conv) is nn.Conv2d
            and type(norm) is nn.BatchNorm2d
            and norm.track_running_stats
            and not (conv.training or norm.training)
        ):
            layers._modules[first] = fuse_conv_bn_eval(conv, norm)
            layers._modules[second] = nn.Identity()
