"""What a network would return, without computing it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def dry_run(network: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    """Return the output for one image: tensors on the meta device, which have shapes alone.

    Neither the random state nor the batch statistics of `network` change.

    Args:
        network: Takes images, shape (B, C, H, W).
        image_shape: Channels, height and width of the image.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    return shadow(torch.empty(1, *image_shape, device="meta"))
