"""BottleneckVAE: a fixed capacity."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detaux_pl.disentangle.vae import VAE, Posterior, refuse_negative
from detaux_pl.losses.gaussian_kl import gaussian_kl


class BottleneckVAE(VAE):
    """A VAE with `gamma |KL(q(z|x) || p(z)) - target|`: AnnealedVAE with a fixed capacity.

    The divergence is the sum over latents and the mean over images [nats].

    Args:
        gamma: Weight of the distance. disentanglement_lib: 4.
        target: Capacity [nats]. disentanglement_lib: 10.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import torch
        >>> model = BottleneckVAE((3, 16, 16), latent_dim=6, target=5.0)
        >>> model.encode(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 6, 1])

    References:
        The custom model of disentanglement_lib's example, and the default of the starter kit of
        the NeurIPS 2019 disentanglement challenge.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        gamma: float = 4.0,
        target: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, **kwargs)
        refuse_negative(gamma=gamma, target=target)
        self.gamma = gamma
        self.target = target

    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted distance of the divergence to the target."""
        kl = gaussian_kl(*posterior).sum(1).mean()
        return self.gamma * (kl - self.target).abs(), {"kl": kl}
