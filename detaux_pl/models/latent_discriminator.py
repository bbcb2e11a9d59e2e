"""The discriminator of joint and permuted latents."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class LatentDiscriminator(nn.Module):
    """Dense layers with leaky ReLU (slope 0.2) that tell joint latents from permuted ones.

    Args:
        latent_dim: Number of latents K.
        hidden: Units of every hidden layer. Paper: 1000.
        layers: Number of hidden layers. Paper: 6.

    Example:
        >>> import torch
        >>> LatentDiscriminator(latent_dim=6, hidden=20)(torch.zeros(2, 6)).shape
        torch.Size([2, 2])

    References:
        Kim & Mnih 2018, "Disentangling by Factorising", arXiv 1802.05983, appendix A.
    """

    def __init__(self, latent_dim: int, hidden: int = 1000, layers: int = 6) -> None:
        super().__init__()
        widths = (latent_dim, *[hidden] * layers)
        self.layers = nn.Sequential(
            *(
                layer
                for before, after in pairwise(widths)
                for layer in (nn.Linear(before, after), nn.LeakyReLU(0.2))
            ),
            nn.Linear(widths[-1], 2),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents, shape (n, K), to logits of joint and permuted, shape (n, 2)."""
        logits: Tensor = self.layers(latents)
        return logits
