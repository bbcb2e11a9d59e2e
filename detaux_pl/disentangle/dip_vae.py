"""DIP-VAE: an aggregate posterior with uncorrelated latents."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from detaux_pl.disentangle.vae import VAE, Posterior, refuse_negative
from detaux_pl.losses.dip import dip_penalty
from detaux_pl.losses.gaussian_kl import gaussian_kl
from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.losses.likelihood import Likelihood


class DIPVAE(VAE):
    """A VAE with `KL(q(z|x) || p(z)) + R`, R a penalty of the covariance C of the batch.

    `R = off_diagonal sum_{k != l} C_kl^2 + diagonal sum_k (C_kk - 1)^2`, C that of the posterior
    means (`i`) or of the latents (`ii`), see `dip_penalty`. The divergence is the sum over latents
    and the mean over images [nats].

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
        variant: `i` or `ii`.
        off_diagonal: Weight of the squared covariances. disentanglement_lib: 1 to 50.
        diagonal: Weight of the squared distances of the variances to 1; null for 10 times
            `off_diagonal` in `i`, as much as it in `ii`, as in disentanglement_lib.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import torch
        >>> model = DIPVAE((3, 16, 16), latent_dim=6, variant="ii")
        >>> model.encode(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 6, 1])

    References:
        Kumar et al. 2018, "Variational Inference of Disentangled Latent Concepts from Unlabeled
        Observations", arXiv 1711.00848.
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
        variant: Literal["i", "ii"] = "i",
        off_diagonal: float = 10.0,
        diagonal: float | None = None,
    ) -> None:
        super().__init__(
            image_shape, latent_dim, width, likelihood, lr, weight_decay, optimizer, lr_schedule
        )
        if diagonal is None:
            diagonal = off_diagonal * (10 if variant == "i" else 1)
        refuse_negative(off_diagonal=off_diagonal, diagonal=diagonal)
        self.save_hyperparameters()
        self.variant = variant
        self.off_diagonal = off_diagonal
        self.diagonal = diagonal

    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the divergence and the weighted penalty, which is logged with its weights."""
        kl = gaussian_kl(*posterior).sum(1).mean()
        penalty = dip_penalty(*posterior, self.variant, self.off_diagonal, self.diagonal)
        return kl + penalty, {"kl": kl, "covariance_penalty": penalty}
