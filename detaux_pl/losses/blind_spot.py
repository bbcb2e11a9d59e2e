"""Blind spots: reconstruction that cannot learn the noise of single pixels."""

from __future__ import annotations

import torch
from torch import Tensor

_NEIGHBOURS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


def hide_pixels(images: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Put a neighbour's value in place of some pixels, all channels of a pixel together.

    Args:
        images: Shape (n, C, H, W).
        share: Probability that a pixel is hidden, in (0, 1).

    Returns:
        The images with hidden pixels, and where they are, bool, shape (n, 1, H, W). One of the
        eight neighbours, wrapped at the border, serves for the whole batch.
    """
    n, _, height, width = images.shape
    hidden = torch.rand(n, 1, height, width, device=images.device) < share
    # Drawn on the CPU: reading it from an accelerator would wait for the device.
    shift = _NEIGHBOURS[int(torch.randint(len(_NEIGHBOURS), ()))]
    return torch.where(hidden, images.roll(shift, dims=(-2, -1)), images), hidden


def blind_spot_loss(reconstruction: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Return the squared error, mean over the channels of the hidden pixels.

    Noise that is independent from pixel to pixel cannot be told from the pixels around it: the
    reconstruction that minimises this is of the image beneath the noise.

    Args:
        reconstruction: Made from images with hidden pixels, shape (n, C, H, W).
        images: The images as they are, noise included, shape (n, C, H, W).
        hidden: Which pixels were hidden, bool, shape (n, 1, H, W).

    Returns:
        Scalar loss; 0 where no pixel is hidden.

    Example:
        >>> images, hidden = torch.ones(1, 3, 2, 2), torch.eye(2).bool().view(1, 1, 2, 2)
        >>> blind_spot_loss(torch.full_like(images, 0.5), images, hidden)
        tensor(0.2500)

    References:
        Batson and Royer 2019, "Noise2Self: blind denoising by self-supervision", eq. 2.
    """
    errors = (reconstruction - images).square().mean(1, keepdim=True)
    return (errors * hidden).sum() / hidden.sum().clamp_min(1)
