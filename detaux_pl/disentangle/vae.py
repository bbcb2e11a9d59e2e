"""What all variational autoencoders share."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from detaux_pl.data.batch import Batch
from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler
from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.losses.likelihood import Likelihood, reconstruction_loss
from detaux_pl.losses.precision import at_least_float32
from detaux_pl.models.latent_split import widest_float
from detaux_pl.models.vae import VAEDecoder, VAEEncoder

ACTIVE = 0.01
"""Variance of its posterior mean above which a latent is active; Burda et al. 2016, 1509.00519."""


class Posterior(NamedTuple):
    """Gaussian posteriors of a batch.

    Args:
        mean: Means, shape (B, K).
        log_variance: Logarithms of the variances, shape (B, K).
    """

    mean: Tensor
    log_variance: Tensor


class VAE(AutoencodingDisentangler):
    """A variational autoencoder: K latents of one dimension each, and no principal one.

    `z = m(x) + exp(v(x) / 2) eps`, `x~ = sigmoid(g(z))`; the loss is that of the reconstruction,
    see `reconstruction_loss`, and what `regularize` adds, which is all that the methods differ in.
    In validation and test z is drawn as in training, as the evidence lower bound has it; the codes
    are the posterior means m, with no noise.

    Trains on single images, or on pairs, of which it uses every view. Logs `<stage>/loss`,
    `<stage>/reconstruction`, `<stage>/kl` and the unweighted terms of the method; in validation
    `val/active_units`, the number of latents whose mean varies over the images by more than 0.01.

    Args:
        image_shape: Channels, height and width, the latter two multiples of 16; the command line
            takes it from the data.
        latent_dim: Number of latents K.
        width: Factor of the channels and units of encoder and decoder.
        likelihood: `bernoulli`, or `gaussian` for the squared error.
        optimizer: `adam` or `adamw`.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Kingma & Welling 2014, arXiv 1312.6114. Nets and defaults are those of disentanglement_lib,
        which trains for 300,000 steps of 64 images.
    """

    principal_subspace: int | None = None

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
        **offered: Any,
    ) -> None:
        # Checkpoints of the command line hold `n_classes`, which it offers to every disentangler.
        for name in offered.keys() - {"n_classes"}:
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {name!r}")
        super().__init__(lr, weight_decay, optimizer, lr_schedule)
        self.save_hyperparameters()
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.encoder = VAEEncoder(image_shape, latent_dim, width)
        self.decoder = VAEDecoder(image_shape, latent_dim, width)
        self._moments: Tensor | None = None

    @abstractmethod
    def regularize(self, posterior: Posterior, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what is added to the reconstruction loss, and its unweighted terms by name.

        Args:
            posterior: Posteriors of the batch.
            latents: A sample of each, shape (B, K).
        """

    @property
    def n_subspaces(self) -> int:
        """Number of subspaces: one for each latent."""
        return self.latent_dim

    def posterior(self, images: Tensor) -> Posterior:
        """Return the posteriors of images in [0, 1], shape (B, C, H, W), in float32 at least."""
        mean, log_variance = self.encoder(images)
        # Half precision would round the noise that is added to the means.
        return Posterior(at_least_float32(mean), at_least_float32(log_variance))

    def encode(self, images: Tensor) -> Tensor:
        """Return the posterior means, shape (B, K, 1), of images, shape (B, C, H, W)."""
        return self.posterior(images).mean[..., None]

    def decode(self, codes: Tensor) -> Tensor:
        """Return images in [0, 1], shape (B, C, H, W), of latents, shape (B, K, 1)."""
        images: Tensor = self.decoder(codes[..., 0])
        return images.sigmoid()

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return the loss of all images of a batch."""
        return self._step("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Log the losses of all images of a batch."""
        self._step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Log the losses of all images of a batch."""
        self._step("test", batch)

    def _step(self, stage: str, batch: Batch) -> Tensor:
        images = batch.images.flatten(0, -4)
        posterior = self.posterior(images)
        latents = _sample(posterior)
        reconstruction = reconstruction_loss(self.decoder(latents), images, self.likelihood)
        added, terms = self.regularize(posterior, latents)
        total = reconstruction + added
        terms = {"reconstruction": reconstruction, **terms}
        self.log_losses(stage, total, terms, batch_size=len(images))
        if stage == "val":
            self._add_moments(posterior.mean.detach())
        return total

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._moments = None

    def on_validation_epoch_end(self) -> None:
        """Log the number of active latents, over all ranks."""
        assert self._moments is not None  # validation has at least one batch
        moments = self.trainer.strategy.reduce(self._moments, reduce_op="sum")
        mean, square = moments[:2] / moments[2]
        active = (square - mean.square() > ACTIVE).sum()
        self.log("val/active_units", active.float(), sync_dist=True)

    def _add_moments(self, mean: Tensor) -> None:
        """Add up the posterior means, their squares and their number, shape (3, K)."""
        mean = mean.to(widest_float(mean.device))
        moments = torch.stack([mean, mean.square(), torch.ones_like(mean)]).sum(1)
        self._moments = moments if self._moments is None else self._moments + moments


def refuse_negative(**values: float) -> None:
    """Refuse a weight or a capacity below zero.

    Raises:
        ValueError: If there is one.
    """
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}: give a finite number that is not negative.")


def _sample(posterior: Posterior) -> Tensor:
    deviation = (0.5 * posterior.log_variance).exp()
    return posterior.mean + deviation * torch.randn_like(deviation)
