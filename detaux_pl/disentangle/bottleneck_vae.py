"""BottleneckVAE: a fixed capacity."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from detaux_pl.disentangle.vae import VAE, Posterior, refuse_negative
from detaux_pl.losses.gaussian_kl import gaussian_kl
from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.losses.likelihood import Likelihood


class BottleneckVAE(VAE):
    """A VAE with `gamma |KL(q(z|x) || p(z)) - target|`: AnnealedVAE with a fixed capacity.

    The divergence is the sum over latents and the mean over images [nats].

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
        latent_dim: int = 10,
        width: int = 1,
        likelihood: Likelihood = "bernoulli",
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        optimizer: Literal["adamw", "adam"] = "adam",
        lr_schedule: LearningRateSchedule = "constant",
        gamma: float = 4.0,
        target: float = 10.0,
    ) -> None:
        super().__init__(
            image_shape, latent_dim, width, likelihood, lr, weight_decay, optimizer, lr_schedule
        )
        refuse_negative(gamma=gamma, target=target)
        self.save_hyperparameters()
        self.gamma = gamma
        self.target = target

    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted distance of the divergence to the target."""
        kl = gaussian_kl(*posterior).sum(1).mean()
        return self.gamma * (kl - self.target).abs(), {"kl": kl}
