"""beta-VAE: a heavier divergence from the prior."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from detaux_pl.disentangle.vae import VAE, Posterior, refuse_negative
from detaux_pl.losses.gaussian_kl import gaussian_kl
from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.losses.likelihood import Likelihood


class BetaVAE(VAE):
    """A VAE with `beta KL(q(z|x) || p(z))`, sum over latents, mean over images [nats].

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
        latent_dim: int = 10,
        width: int = 1,
        likelihood: Likelihood = "bernoulli",
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        optimizer: Literal["adamw", "adam"] = "adam",
        lr_schedule: LearningRateSchedule = "constant",
        beta: float = 4.0,
    ) -> None:
        super().__init__(
            image_shape, latent_dim, width, likelihood, lr, weight_decay, optimizer, lr_schedule
        )
        refuse_negative(beta=beta)
        self.save_hyperparameters()
        self.beta = beta

    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted divergence."""
        kl = gaussian_kl(*posterior).sum(1).mean()
        return self.beta * kl, {"kl": kl}
