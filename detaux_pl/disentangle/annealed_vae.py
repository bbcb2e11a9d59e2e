"""AnnealedVAE: a capacity that grows."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from detaux_pl.disentangle.vae import VAE, Posterior, refuse_negative
from detaux_pl.losses.gaussian_kl import gaussian_kl
from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.losses.likelihood import Likelihood
from detaux_pl.losses.schedule import linear_capacity


class AnnealedVAE(VAE):
    """A VAE with `gamma |KL(q(z|x) || p(z)) - C(t)|`, whose capacity C grows with the step t.

    `C(t) = capacity min(1, t / annealing_steps)`; the divergence is the sum over latents and the
    mean over images [nats]. Outside a training t is 0. Logs `<stage>/capacity`.

    Args:
        image_shape: Channels, height and width, the latter two multiples of 16; the command line
            takes it from the data.
        latent_dim: Number of latents K.
        width: Factor of the channels and units of encoder and decoder.
        likelihood: `bernoulli`, or `gaussian` for the squared error.
        lr: Learning rate.
        weight_decay: Weight decay.
        optimizer: `adam` or `adamw`.
        lr_schedule: `constant`, or `cosine` to zero over the training.
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
        latent_dim: int = 10,
        width: int = 1,
        likelihood: Likelihood = "bernoulli",
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        optimizer: Literal["adamw", "adam"] = "adam",
        lr_schedule: LearningRateSchedule = "constant",
        capacity: float = 25.0,
        gamma: float = 1000.0,
        annealing_steps: int = 100_000,
    ) -> None:
        super().__init__(
            image_shape, latent_dim, width, likelihood, lr, weight_decay, optimizer, lr_schedule
        )
        refuse_negative(capacity=capacity, gamma=gamma)
        if annealing_steps < 1:
            raise ValueError(f"annealing_steps is {annealing_steps}: give at least 1 step.")
        self.save_hyperparameters()
        self.capacity = capacity
        self.gamma = gamma
        self.annealing_steps = annealing_steps

    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted distance of the divergence to the capacity of this step."""
        kl = gaussian_kl(*posterior).sum(1).mean()
        capacity = linear_capacity(self.global_step, self.capacity, self.annealing_steps)
        return self.gamma * (kl - capacity).abs(), {"kl": kl, "capacity": kl.new_tensor(capacity)}
