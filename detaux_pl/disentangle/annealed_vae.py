"""AnnealedVAE: a capacity that grows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detaux_pl.disentangle.vae import VAE, Posterior, refuse_negative
from detaux_pl.losses.gaussian_kl import gaussian_kl
from detaux_pl.losses.schedule import linear_capacity


class AnnealedVAE(VAE):
    """A VAE with `gamma |KL(q(z|x) || p(z)) - C(t)|`, whose capacity C grows with the step t.

    `C(t) = capacity min(1, t / annealing_steps)`; the divergence is the sum over latents and the
    mean over images [nats]. Outside a training t is 0. Logs `<stage>/capacity`.

    Args:
        capacity: Capacity in the end [nats]. disentanglement_lib: 5 to 100.
        gamma: Weight of the distance. disentanglement_lib: 1000.
        annealing_steps: Training steps until the capacity is reached.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import torch
        >>> model = AnnealedVAE((3, 16, 16), latent_dim=6, capacity=10.0)
        >>> model.encode(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 6, 1])

    References:
        Burgess et al. 2018, "Understanding disentangling in beta-VAE", arXiv 1804.03599, eq. 8.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        capacity: float = 25.0,
        gamma: float = 1000.0,
        annealing_steps: int = 100_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, **kwargs)
        refuse_negative(capacity=capacity, gamma=gamma)
        if annealing_steps < 1:
            raise ValueError(f"annealing_steps is {annealing_steps}: give at least 1 step.")
        self.capacity = capacity
        self.gamma = gamma
        self.annealing_steps = annealing_steps

    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted distance of the divergence to the capacity of this step."""
        kl = gaussian_kl(*posterior).sum(1).mean()
        capacity = linear_capacity(self.global_step, self.capacity, self.annealing_steps)
        return self.gamma * (kl - capacity).abs(), {"kl": kl, "capacity": kl.new_tensor(capacity)}
