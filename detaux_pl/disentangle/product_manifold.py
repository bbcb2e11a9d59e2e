"""Product-manifold autoencoder."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.batch import Batch
from detaux_pl.data.modules import PairDataModule
from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler
from detaux_pl.losses import product_manifold as losses
from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.losses.precision import at_least_float32
from detaux_pl.losses.schedule import Betas, product_manifold_betas
from detaux_pl.models.autoencoder import AutoencoderName, build_autoencoder

_LEAST_CONSISTENCY = 0.01
"""Factor at or below which the official code leaves the consistency loss out."""


class ProductManifoldAutoencoder(AutoencodingDisentangler):
    """An autoencoder whose latent space is a product of subspaces, learned from weak pairs.

    `z = f(x)`, `s_i = p_i(z)`, `x~ = g(sum_i s_i)`; the loss of a batch of pairs is
    `L_rec + b1 (distance_weight L_dist + sparsity_weight L_spar) + b2 consistency_weight L_cons
    + b3 regularization_weight L_reg`, with the betas of the epoch of `trainer.max_epochs`. Each
    loss is a mean, see `detaux_pl.losses.product_manifold`. Trains on pairs of images that agree
    or disagree in the principal label. `val/loss` has the factors that end the schedule (b1 = b2
    = 1, b3 = 0) in every epoch, so that epochs compare.

    The batch norm of a ResNet, in training, sees the images that are decoded from mixtures as a
    batch of their own, whose statistics enter its running averages too, as in the official code.

    Args:
        image_shape: Channels, height and width, the latter two multiples of 16, or of 32 for a
            ResNet; the command line takes it from the data.
        dim: Dimensions of the latent space and of every subspace; of a ResNet also the channels
            of its last stage, and in `resnet18_1x1` the dimensions at each of the (H / 32) x
            (W / 32) places of a code. Paper: unstated; 10 is the official code's for 3D Shapes.
        n_subspaces: Number of subspaces, at least 2. Paper: 10.
        principal_subspace: Index of the subspace for the principal factor.
        distance_weight: Weight of the distance loss. Official code: 0.1.
        sparsity_weight: Weight of the sparsity loss. Official code: 0.1.
        consistency_weight: Weight of the consistency loss. Official code: 100.
        regularization_weight: Weight of the regularization loss. Official code: 1e-4.
        form: `code` for the losses of the official code, with a gradient for the regularization
            and without the constant of the distance loss; `official` for both as they are there;
            `paper` for the squared hinge, the oracle's normaliser and the single consistency
            term of the paper.
        autoencoder: `convolutional` (paper: 3D Shapes), `resnet18` (paper: FACES, CIFAR-10 and
            SVHN), or `resnet18_1x1` (paper: Cars), whose projectors keep the places of the map;
            all losses are of flattened maps.
        lr: Learning rate. Paper: 5e-4.
        weight_decay: Weight decay. Official code: 1e-6.
        optimizer: `adamw` (paper) or `adam` (official code).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> model = ProductManifoldAutoencoder((3, 16, 16), dim=5, n_subspaces=4)
        >>> codes = model.encode(torch.zeros(2, 3, 16, 16))
        >>> codes.shape, model.decode(codes).shape
        (torch.Size([2, 4, 5]), torch.Size([2, 3, 16, 16]))

    References:
        Skenderi et al., "Disentangled Latent Spaces Facilitate Data-Driven Auxiliary Learning"
        (Detaux). Differs in: the projectors train from the first epoch, as in its code; of the
        k b mixtures of a batch, 2 b random ones are checked for consistency, as in its code.
    """

    principal_subspace: int

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        dim: int = 10,
        n_subspaces: int = 10,
        principal_subspace: int = 0,
        distance_weight: float = 0.1,
        sparsity_weight: float = 0.1,
        consistency_weight: float = 100.0,
        regularization_weight: float = 1e-4,
        form: Literal["code", "official", "paper"] = "code",
        autoencoder: AutoencoderName = "convolutional",
        lr: float = 5e-4,
        weight_decay: float = 1e-6,
        optimizer: Literal["adamw", "adam"] = "adamw",
        lr_schedule: LearningRateSchedule = "constant",
    ) -> None:
        super().__init__(lr, weight_decay, optimizer, lr_schedule)
        self.check_subspaces(n_subspaces, principal_subspace)
        weights = (distance_weight, sparsity_weight, consistency_weight, regularization_weight)
        if min(weights) < 0:
            raise ValueError(f"a loss weight is {min(weights)}: weights must not be negative.")
        self.save_hyperparameters()
        self.principal_subspace = principal_subspace
        self.distance_weight = distance_weight
        self.sparsity_weight = sparsity_weight
        self.consistency_weight = consistency_weight
        self.regularization_weight = regularization_weight
        self.form = form
        self._n_subspaces = n_subspaces
        self.encoder, self.projectors, self.decoder = build_autoencoder(
            autoencoder, image_shape, dim, n_subspaces
        )
        # Strided convolutions and their transposes take a fifth less of a CPU in this order.
        self.to(memory_format=torch.channels_last)

    @property
    def n_subspaces(self) -> int:
        """Number of subspaces K."""
        return self._n_subspaces

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes, shape (B, K, D), of images, shape (B, C, H, W)."""
        return self._project(images).transpose(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the image of the sum of the subspaces, shape (B, C, H, W)."""
        images: Tensor = self.decoder(codes.sum(1))
        return images

    def on_fit_start(self) -> None:
        """Refuse data without pairs before anything is trained.

        Raises:
            UserError: If the data module gives single images, or views of them.
        """
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and not isinstance(data, PairDataModule):
            raise UserError(
                f"ProductManifoldAutoencoder trains on pairs, which {type(data).__name__} does "
                "not give: use PairDataModule."
            )

    def on_train_start(self) -> None:
        """Bring averages of a resumed training into the order of their parameters in memory."""
        # A fused optimiser goes through both as they lie there, and an older checkpoint's lie
        # otherwise: each weight would get the average of another one.
        for optimizer in self.trainer.optimizers:
            for parameter, averages in optimizer.state.items():
                for name, values in averages.items():
                    if values.shape == parameter.shape:
                        averages[name] = torch.empty_like(parameter).copy_(values)

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return the loss of a batch of pairs at this epoch's betas."""
        epochs = self.trainer.max_epochs
        betas = product_manifold_betas(self.current_epoch, -1 if epochs is None else epochs)
        return self._step("train", batch, betas)

    def validation_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Log the losses of a batch of pairs."""
        self._step("val", batch, Betas(1.0, 1.0, 0.0))

    def test_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Log the losses of a batch of pairs."""
        self._step("test", batch, Betas(1.0, 1.0, 0.0))

    def _step(self, stage: str, batch: Batch, betas: Betas) -> Tensor:
        if batch.images.ndim != 5:
            raise UserError(
                "ProductManifoldAutoencoder got single images, it trains on pairs: "
                "use PairDataModule."
            )
        same = batch.targets[0, :, 0] == batch.targets[1, :, 0]
        total, terms = self.loss_terms(batch.images, same, betas)
        self.log_losses(stage, total, terms, batch_size=len(same))
        return total

    def loss_terms(
        self, images: Tensor, same: Tensor, betas: Betas
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss of a batch of pairs and its unweighted terms by name.

        Args:
            images: Views of the pairs in [0, 1], shape (2, B, C, H, W).
            same: Whether both views have the same principal label, shape (B,).
            betas: Factors of the constraints; a term whose factor is 0 is not computed.
        """
        views = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        flat = self._project(views)  # k, vb, d
        total = F.mse_loss(self.decoder(flat.sum(0)), views)
        terms = {"reconstruction": total}
        exact = at_least_float32(flat)
        codes = exact.view(len(flat), 2, len(same), -1).transpose(0, 1)  # v, k, b, d
        if betas.disentanglement > 0:
            distances = losses.squared_distances(codes)
            assignment = self._assign(codes, same)
            terms["distance"] = losses.distance_loss(
                distances,
                assignment,
                form="paper" if self.form == "paper" else "code",
                legacy_constant=self.form == "official",
            )
            terms["sparsity"] = losses.sparsity_loss(codes)
            total = total + betas.disentanglement * (
                self.distance_weight * terms["distance"] + self.sparsity_weight * terms["sparsity"]
            )
            if betas.regularization > 0:
                if self.form != "official":
                    assignment = losses.soft_oracle(distances, same, self.principal_subspace)
                terms["regularization"] = losses.regularization_loss(assignment)
                weight = betas.regularization * self.regularization_weight
                total = total + weight * terms["regularization"]
        if betas.consistency > _LEAST_CONSISTENCY and self.consistency_weight > 0:
            terms["consistency"] = self._consistency(codes)
            total = total + betas.consistency * self.consistency_weight * terms["consistency"]
        return total, terms

    def _project(self, images: Tensor) -> Tensor:
        """Codes of images, shape (K, B, D): the layout in which they are computed."""
        codes: Tensor = self.projectors(self.encoder(images))
        return codes

    def _assign(self, codes: Tensor, same: Tensor) -> Tensor:
        if self.form == "paper":
            return losses.oracle(codes, same, self.principal_subspace, norm="length", power=1)
        return losses.oracle(codes, same, self.principal_subspace)

    def _consistency(self, codes: Tensor) -> Tensor:
        k, b = codes.shape[1:3]
        mixtures = torch.randperm(k * b, device=codes.device)[: 2 * b]
        mixed, swapped = losses.mix(codes, mixtures)
        returned = self._project(self.decoder(mixed.sum(0)))
        return losses.consistency_loss(mixed, returned, swapped if self.form == "paper" else None)
