"""A plain autoencoder, which splits nothing."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from detaux_pl.data.batch import Batch
from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler
from detaux_pl.losses.blind_spot import blind_spot_loss, hide_pixels
from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.models.autoencoder import build_autoencoder


class Autoencoder(AutoencodingDisentangler):
    """An autoencoder that only learns to reconstruct: one subspace, and no principal one.

    `z = f(x)` and `x~ = g(z)` train on the mean squared error alone, over pixels, channels and
    images; the codes are z. With `blind_spots`, some pixels are hidden from the encoder and the
    loss is that of the hidden ones alone, see `blind_spot_loss`.

    Trains on pairs, of which it uses every view, or on single images. Logs `<stage>/loss`, in
    validation with nothing hidden.

    Args:
        image_shape: Channels, height and width, the latter two multiples of 16, or of 32 for a
            ResNet; the command line takes it from the data.
        dim: Dimensions of the latent space.
        blind_spots: Share of the pixels that are hidden in training, in [0, 1); 0 for a plain
            autoencoder.
        batch_norm: Normalise after the convolutions, which trains in fewer steps; a ResNet always
            does.
        autoencoder: `convolutional`, or `resnet18` for larger images.
        optimizer: `adamw` or `adam`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import torch
        >>> model = Autoencoder((3, 16, 16), dim=8)
        >>> model.encode(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 1, 8])

    References:
        Skenderi et al., Detaux, section 4.5: clusters in "the latent space of an autoencoder that
        only learns to reconstruct".
    """

    principal_subspace: int | None = None

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        dim: int = 32,
        blind_spots: float = 0.0,
        batch_norm: bool = False,
        autoencoder: Literal["convolutional", "resnet18"] = "convolutional",
        lr: float = 1e-3,
        weight_decay: float = 1e-6,
        optimizer: Literal["adamw", "adam"] = "adamw",
        lr_schedule: LearningRateSchedule = "cosine",
    ) -> None:
        super().__init__(lr, weight_decay, optimizer, lr_schedule)
        if dim < 1:
            raise ValueError(f"dim is {dim}: give at least 1 dimension.")
        if not 0.0 <= blind_spots < 1.0:
            raise ValueError(f"blind_spots is {blind_spots}: a share of the pixels is in [0, 1).")
        self.save_hyperparameters()
        self.blind_spots = blind_spots
        self.encoder, _, self.decoder = build_autoencoder(
            autoencoder, image_shape, dim, batch_norm=batch_norm
        )

    @property
    def n_subspaces(self) -> int:
        """Number of subspaces: one, the latent space."""
        return 1

    def encode(self, images: Tensor) -> Tensor:
        """Return the latent vectors, shape (B, 1, dim), of images, shape (B, C, H, W)."""
        latent: Tensor = self.encoder(images)
        return latent[:, None]

    def decode(self, codes: Tensor) -> Tensor:
        """Return images, shape (B, C, H, W), of latent vectors, shape (B, 1, dim)."""
        images: Tensor = self.decoder(codes[:, 0])
        return images

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return the reconstruction loss of all images of a batch."""
        images = batch.images.flatten(0, -4)
        if self.blind_spots > 0:
            seen, hidden = hide_pixels(images, self.blind_spots)
            loss = blind_spot_loss(self.decoder(self.encoder(seen)), images, hidden)
        else:
            loss = F.mse_loss(self.decoder(self.encoder(images)), images)
        self.log_losses("train", loss, {}, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Log the reconstruction loss of all images of a batch, nothing hidden."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Log the reconstruction loss of all images of a batch, nothing hidden."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        images = batch.images.flatten(0, -4)
        loss = F.mse_loss(self.decoder(self.encoder(images)), images)
        self.log_losses(stage, loss, {}, batch_size=len(images))
