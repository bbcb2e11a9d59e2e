"""Images of any size brought to that which a network was trained on, within the network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Resize(nn.Module):
    """Resize images in [0, 1], shape (B, C, H, W), as Pillow does but for rounding.

    Another aspect ratio is stretched.

    Args:
        given: Height and width of the images.
        wanted: Height and width that they get.
        interpolation: `bilinear` or `bicubic`, both with antialiasing.

    Example:
        >>> Resize((4, 6), (2, 3), "bilinear")(torch.ones(1, 3, 4, 6)).shape
        torch.Size([1, 3, 2, 3])
    """

    rows: Tensor | None
    columns: Tensor | None

    def __init__(self, given: tuple[int, int], wanted: tuple[int, int], interpolation: str) -> None:
        super().__init__()
        self.wanted = wanted
        for axis, n, size in zip(("rows", "columns"), given, wanted, strict=True):
            weights = None if n == size else resizing(n, size, interpolation)
            self.register_buffer(axis, weights, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the resized images."""
        if self.columns is not None:
            images = (images @ self.columns.T).clamp(0, 1)
        if self.rows is not None:
            images = (self.rows @ images).clamp(0, 1)
        return images


def resizing(n: int, wanted: int, interpolation: str) -> Tensor:
    """Return the matrix that resizes an axis of n pixels, shape (wanted, n).

    Args:
        n: Number of pixels.
        wanted: Number of new pixels.
        interpolation: `bilinear` or `bicubic`, both with antialiasing.

    Example:
        >>> resizing(4, 2, "bilinear") @ torch.arange(4.0)
        tensor([0.7143, 2.2857])
    """
    points = torch.eye(n)[None, None]
    weights = F.interpolate(points, (wanted, n), mode=interpolation, antialias=True)
    return weights[0, 0]


def seen_at_once(net: nn.Module, images: Tensor, pixels: int) -> tuple[Tensor, ...]:
    """Cut images into pieces of so many pixels, at the size that a network sees, or of one image.

    Args:
        net: What may resize them.
        images: Shape (B, C, H, W).
        pixels: Height times width of all images of a piece, at the most.

    Example:
        >>> net = Resize((4, 4), (8, 8), "bilinear")
        >>> [len(piece) for piece in seen_at_once(net, torch.ones(5, 3, 4, 4), 150)]
        [2, 2, 1]
    """
    sizes = [module.wanted for module in net.modules() if isinstance(module, Resize)]
    height, width = [*sizes, images.shape[2:]][0]
    return torch.split(images, max(pixels // (height * width), 1))
