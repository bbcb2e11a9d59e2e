"""Samples of the product of the marginals."""

from __future__ import annotations

import torch
from torch import Tensor


def permute_latents(latents: Tensor) -> Tensor:
    """Permute every latent over the batch by itself, shape (B, K), drawn by torch's generator.

    Example:
        >>> latents = torch.arange(6.0).view(3, 2)
        >>> permute_latents(latents).sort(0).values.equal(latents)
        True

    References:
        Kim & Mnih 2018, "Disentangling by Factorising", arXiv 1802.05983, algorithm 1.
    """
    order = torch.rand(latents.shape, device=latents.device).argsort(0)
    return latents.gather(0, order)
