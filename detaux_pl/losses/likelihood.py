"""How well a decoder explains the images."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detaux_pl.losses.precision import at_least_float32

Likelihood = Literal["bernoulli", "gaussian"]


def reconstruction_loss(decoded: Tensor, images: Tensor, likelihood: Likelihood) -> Tensor:
    """Return the negative log-likelihood of images, sum over pixels and channels, mean over images.

    `bernoulli` is the cross-entropy [nats] of every value with the probability
    `sigmoid(decoded)`; its least value is the entropy of the images, not 0. `gaussian` is the
    squared error `|x - sigmoid(decoded)|^2`, the likelihood of deviation `sqrt(1 / 2)` but for a
    constant. Computed in float32 at least.

    Args:
        decoded: What the decoder gives, before the sigmoid, shape (B, C, H, W).
        images: Images in [0, 1], same shape.
        likelihood: `bernoulli` or `gaussian`.

    Returns:
        Scalar loss.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> reconstruction_loss(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4), "gaussian")
        tensor(4.)

    References:
        disentanglement_lib: `bernoulli_loss` without its constant, and `l2_loss`.
    """
    if decoded.shape != images.shape:
        raise ValueError(
            f"decoded images have shape {tuple(decoded.shape)}, the images "
            f"{tuple(images.shape)}: give the same shape."
        )
    with torch.autocast(decoded.device.type, enabled=False):
        decoded = at_least_float32(decoded)
        images = images.to(decoded.dtype)
        if likelihood == "bernoulli":
            total = F.binary_cross_entropy_with_logits(decoded, images, reduction="sum")
        else:
            total = (decoded.sigmoid() - images).square().sum()
        return total / len(images)
