"""beta-VAE: a heavier divergence from the prior."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detaux_pl.disentangle.vae import VAE, Posterior, refuse_negative
from detaux_pl.losses.gaussian_kl import gaussian_kl


class BetaVAE(VAE):
    """A VAE with `beta KL(q(z|x) || p(z))`, sum over latents, mean over images [nats].

    Args:
        beta: Weight of the divergence; 1 for a plain VAE. disentanglement_lib: 1 to 16.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import torch
        >>> model = BetaVAE((3, 16, 16), latent_dim=6, beta=8.0)
        >>> model.encode(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 6, 1])

    References:
        Higgins et al. 2017, "beta-VAE: Learning Basic Visual Concepts with a Constrained
        Variational Framework".
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        beta: float = 4.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, **kwargs)
        refuse_negative(beta=beta)
        self.beta = beta

    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted divergence."""
        kl = gaussian_kl(*posterior).sum(1).mean()
        return self.beta * kl, {"kl": kl}
