"""Residual autoencoder: a plain autoencoder whose latent space is split by the labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detaux_pl.data.batch import Batch
from detaux_pl.disentangle.autoencoder import Autoencoder
from detaux_pl.models.latent_split import (
    LatentSplit,
    class_gram,
    split_latent_space,
    widest_float,
)


class ResidualAutoencoder(Autoencoder):
    """A reconstruct-only autoencoder whose latent space is split by the principal labels.

    `z = f(x)` and `x~ = g(z)` train on the mean squared error alone. At the end of every epoch
    the latent space is split, see `split_latent_space`: the principal subspace holds the
    directions along which the class means differ, the others share what is left, in the order
    of its variance and cleared of the principal factor as far as class means tell. The codes
    are linear in z and need no label.

    The statistics of the split, of each image or first one of a pair, are gathered in the training
    steps, by the encoder in evaluation mode but while it still moves: the cosine schedule, which
    brings it to rest, makes them those of the final encoder. A checkpoint within an epoch keeps
    what was gathered so far, of all ranks.

    With `blind_spots`, some pixels are hidden from the encoder and the loss is that of the hidden
    ones alone: where the images are noisy, the latent space then holds what lies beneath the
    noise, see `blind_spot_loss`.

    Trains on pairs, of which it uses every view, or on single images.

    Args:
        n_classes: Number of principal classes; the command line takes it from the data.
        dim: Dimensions of the latent space, at least `n_classes`: less would leave nothing
            beside the between-class directions.
        n_subspaces: Number of subspaces, at least 2.
        subspace_dim: Dimensions of each subspace.
        principal_subspace: Index of the subspace for the principal factor.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> model = ResidualAutoencoder((3, 16, 16), n_classes=4, n_subspaces=3, subspace_dim=5)
        >>> model.decode(torch.zeros(2, 3, 5)).shape  # to encode takes the split that training fits
        torch.Size([2, 3, 16, 16])
    """

    principal_subspace: int
    mean: Tensor
    analysis: Tensor
    synthesis: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        dim: int = 32,
        n_subspaces: int = 4,
        subspace_dim: int = 6,
        principal_subspace: int = 0,
        **kwargs: Any,
    ) -> None:
        self.check_subspaces(n_subspaces, principal_subspace)
        if n_classes < 2 or subspace_dim < 1:
            raise ValueError(
                f"n_classes is {n_classes} and subspace_dim is {subspace_dim}: give at least 2 "
                "classes and 1 dimension."
            )
        if dim < n_classes:
            raise ValueError(
                f"dim is {dim}, but the means of {n_classes} classes span up to {n_classes - 1} "
                f"dimensions: give at least {n_classes}, better twice as many."
            )
        super().__init__(image_shape, dim, **kwargs)
        self.n_classes = n_classes
        self.principal_subspace = principal_subspace
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("analysis", torch.zeros(n_subspaces, subspace_dim, dim))
        self.register_buffer("synthesis", torch.zeros(n_subspaces, subspace_dim, dim))
        self._gram: Tensor | None = None

    @property
    def n_subspaces(self) -> int:
        """Number of subspaces K."""
        return len(self.analysis)

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes, shape (B, K, D), of images, shape (B, C, H, W).

        Raises:
            RuntimeError: If no split has been fitted.
        """
        # On the meta device, which has shapes alone, there is nothing to look at.
        if not self.analysis.is_meta and not self.analysis.any():
            raise RuntimeError(
                "ResidualAutoencoder has no split yet: train it or load a checkpoint."
            )
        # n = images, k = subspaces, c = dimensions of a subspace, d = latent dimensions
        return torch.einsum("nd,kcd->nkc", self.encoder(images) - self.mean, self.analysis)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the image of the latent vector that the codes add up to, shape (B, C, H, W)."""
        latent = self.mean + torch.einsum("nkc,kcd->nd", codes, self.synthesis)
        images: Tensor = self.decoder(latent)
        return images

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return the reconstruction loss of all images of a batch and add up the statistics."""
        loss = super().training_step(batch, batch_idx)
        n = batch.rows.shape[-1]  # the first views: each image of the epoch once
        images, labels = batch.images.flatten(0, -4), batch.targets[..., 0].flatten()
        self._gather(images[:n], labels[:n])
        return loss

    def on_train_epoch_start(self) -> None:
        """Forget the statistics of the last epoch."""
        self._gram = None

    def on_train_epoch_end(self) -> None:
        """Split the latent space by the statistics of all ranks, before a checkpoint is saved."""
        super().on_train_epoch_end()
        assert self._gram is not None  # an epoch has at least one step
        gram = self.trainer.strategy.reduce(self._gram, reduce_op="sum")
        k, c = self.analysis.shape[:2]
        split = split_latent_space(gram, self.n_classes, k, c, self.principal_subspace)
        for name in LatentSplit._fields:
            self.get_buffer(name).copy_(getattr(split, name))
        self._gram = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the statistics of an unfinished epoch, the sum over all ranks: each calls this."""
        if self._gram is not None:
            # Reduced in place.
            gram = self._gram.clone()
            checkpoint["gram"] = self.trainer.strategy.reduce(gram, reduce_op="sum")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the statistics of an unfinished epoch to one rank: later sums count them once."""
        gram: Tensor | None = checkpoint.get("gram")
        self._gram = gram if gram is None or self.global_rank == 0 else torch.zeros_like(gram)

    def on_train_start(self) -> None:
        """Put statistics from a checkpoint where those of the next batches will be."""
        if self._gram is not None:
            self._gram = self._gram.to(self.device, widest_float(self.device))

    @torch.no_grad()
    def _gather(self, images: Tensor, labels: Tensor) -> None:
        """Add the statistics of a batch, as the encoder will see it when it is trained."""
        self.encoder.eval()
        latent = self.encoder(images)
        self.encoder.train()
        gram = class_gram(latent.to(widest_float(latent.device)), labels, self.n_classes)
        self._gram = gram if self._gram is None else self._gram.add_(gram)
