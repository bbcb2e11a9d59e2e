"""Contrastive disentanglement: subembeddings without a decoder."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.batch import Batch
from detaux_pl.data.modules import PairDataModule, ViewDataModule
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.losses.gather import gather_with_gradient
from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.losses.precision import at_least_float32
from detaux_pl.losses.regularizers.base import Embeddings, Regularizer
from detaux_pl.models.encoder import build_encoder
from detaux_pl.models.latent_split import widest_float
from detaux_pl.models.projection_head import ProjectionHeads


class ContrastiveDisentangler(Disentangler):
    """An encoder and its projection, cut in K slices that contrastive learning is to keep apart.

    `r = f(x)`, `z = h(r)`, both cut in K slices; the loss of a batch of N pairs, or of N images
    in two views, is `L + sum_j weight_j R_j`. L is `sum_k InfoNCE(z_k)` (`sub_info_max`) or
    `InfoNCE(z)` (`info_max`), the mean over the 2N views as anchors, see `InfoNCE`. What counts
    as positive of a view is a choice:

    - `view`: the other view of its pair, which needs no label;
    - `joint`: all views that agree in all tasks (of the data module; its principal factor alone
      where it names no tasks);
    - `disjoint`: in slice k all views that agree in task k, the supervised ideal; a slice beyond
      the last task takes the other view.

    With several ranks every rank gathers the embeddings of all and computes the whole loss, whose
    gradient is that of one rank on the joined batch. Losses are computed in float32 whatever the
    precision of the training. Logs `<stage>/loss`, `<stage>/info_max` and every unweighted
    regulariser by its name, with its diagnostics below it; in validation `val/explained/slice<k>`,
    the share of the variance of the normalised slice that the principal label explains. Pairs have
    a validation loss, that of each rank's batches; the single images of `ViewDataModule` have none.

    The regularisers are modules and therefore not among the hyper-parameters of a checkpoint:
    give them again to `load_from_checkpoint`.

    Args:
        image_shape: Channels, height and width; the command line takes it from the data.
        n_classes: Number of principal classes; the command line takes it from the data.
        encoder: `resnet18`, `resnet34`, `resnet50`, `small_convnet` or `timm/<model>`. Paper:
            ResNet-34.
        small_stem: Give a ResNet a first convolution of 3x3 and no pooling, for small images.
        n_slices: Number of slices K; features and `slice_dim` are per slice. Paper: 2.
        slice_dim: Dimensions of each slice of z. Paper: 8.
        unified_head: One projection head of the whole r, instead of one per slice. Paper: for the
            Hessian penalty alone.
        positives: What counts as positive: `view`, `joint` or `disjoint`. Paper: `joint`, and
            `disjoint` for its ideal.
        objective: `sub_info_max`, or `info_max` of the unified z. Paper: the latter for the
            Hessian penalty alone.
        regularizers: What keeps the slices apart, each with its weight.
        temperature: Temperature of the similarities. Paper: unknown.
        denominator: Whether the `one_positive` or `all` views stand in the denominator.
        reduction: `mean` or `sum` over the anchors, of the loss and of the regularisers.
        chunk_size: Anchors whose similarities are held at a time: memory grows with this times
            the number of views.
        codes: Whether the codes of later stages are the `projection` z, on which the
            regularisers act, or the `representation` r; the other one is probed too.
        principal_slice: Index of the slice for the principal factor; null for 0 where the
            positives are `disjoint`, else for that of which the principal label explains most in
            the last validation.

    Raises:
        ValueError: If an argument is outside its range, or the features do not divide by K.

    Example:
        >>> model = ContrastiveDisentangler((3, 16, 16), n_classes=10, encoder="small_convnet")
        >>> codes = model.encode_all(torch.zeros(2, 3, 16, 16))
        >>> {name: tuple(part.shape) for name, part in codes.items()}
        {'z': (2, 2, 8), 'r': (2, 2, 256)}

    References:
        Burns et al. 2021, "Unsupervised Disentanglement without Autoencoding", and its poster
        (docs/methods.md, 'Contrastive loss').
        Differs in: means, not sums, so that weights do not depend on the
        batch size; the poster's sums are `reduction: sum`.
    """

    _principal: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        encoder: str = "resnet34",
        small_stem: bool = False,
        n_slices: int = 2,
        slice_dim: int = 8,
        unified_head: bool = False,
        positives: Literal["view", "joint", "disjoint"] = "joint",
        objective: Literal["sub_info_max", "info_max"] = "sub_info_max",
        regularizers: list[Regularizer] | None = None,
        temperature: float = 0.1,
        denominator: Literal["one_positive", "all"] = "one_positive",
        reduction: Literal["mean", "sum"] = "mean",
        chunk_size: int = 256,
        codes: Literal["projection", "representation"] = "projection",
        principal_slice: int | None = None,
        lr: float = 0.3,
        weight_decay: float = 1e-4,
        optimizer: Literal["sgd", "lars", "adamw", "adam"] = "sgd",
        lr_schedule: LearningRateSchedule = "cosine",
        warmup: float = 0.05,
    ) -> None:
        super().__init__(lr, weight_decay, optimizer, lr_schedule, warmup)
        self.check_subspaces(n_slices, principal_slice or 0)
        if slice_dim < 1 or n_classes < 2:
            raise ValueError(
                f"slice_dim is {slice_dim} and n_classes is {n_classes}: give at least 1 dimension "
                "and 2 classes."
            )
        if positives == "disjoint" and objective == "info_max":
            raise ValueError(
                "positives is disjoint, which gives every slice a loss of its own, but objective "
                "is info_max: take sub_info_max."
            )
        self.save_hyperparameters(ignore=["regularizers"])
        self.n_classes = n_classes
        self.positives = positives
        self.objective = objective
        self.info_max = InfoNCE(temperature, denominator, reduction, chunk_size)
        self.regularizers = nn.ModuleList(regularizers or [])
        names = [regularizer.name for regularizer in self._regularizers]
        if len(set(names)) < len(names):
            raise ValueError(f"regularizers are {', '.join(names)}: give each once.")
        self.encoder, n_features = build_encoder(encoder, image_shape, small_stem)
        self.head = ProjectionHeads(n_features, n_slices, slice_dim, unified_head)
        self._n_slices = n_slices
        self.code_name, self._other = ("z", "r") if codes == "projection" else ("r", "z")
        self.principal_slice = principal_slice
        self.register_buffer("_principal", torch.tensor(principal_slice or 0))
        self._moments: Tensor | None = None

    @property
    def n_subspaces(self) -> int:
        """Number of slices K."""
        return self._n_slices

    @property
    def principal_subspace(self) -> int:  # type: ignore[override]
        """Index of the slice for the principal factor."""
        return int(self._principal)

    @property
    def _regularizers(self) -> list[Regularizer]:
        return list(self.regularizers)  # type: ignore[arg-type]

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes, shape (B, K, D), of images, shape (B, C, H, W)."""
        return self.encode_all(images)[self.code_name]

    def encode_all(self, images: Tensor) -> dict[str, Tensor]:
        """Return projection `z`, (B, K, D), and representation `r`, (B, K, D'), codes first."""
        features = self.encoder(images)
        both = {"z": self.head(features), "r": features.unflatten(1, (self._n_slices, -1))}
        return {name: both[name] for name in (self.code_name, self._other)}

    def loss_terms(
        self, slices: Tensor, targets: Tensor, step: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch of all ranks and its unweighted terms.

        Args:
            slices: Projections, shape (2, N, K, D), views first.
            targets: Labels of T tasks, shape (2, N, T), at most K of them.
            step: Number of the training step, which some regularisers draw from.
        """
        with torch.autocast(slices.device.type, enabled=False):
            batch = self._embeddings(slices, targets, step)
            if self.objective == "info_max":
                info_max = self.info_max(batch.slices.flatten(1), batch.labels)
            else:
                pairs = zip(batch.slices.unbind(1), batch.slice_labels, strict=True)
                info_max = torch.stack([self.info_max(*pair) for pair in pairs]).sum()
            terms = {"info_max": info_max}
            total = info_max
            for regularizer in self._regularizers:
                terms[regularizer.name] = term = regularizer(batch, self.info_max)
                total = total + regularizer.weight * term
                own = regularizer.diagnostics.items()
                terms |= {f"{regularizer.name}/{name}": value for name, value in own}
        return total, terms

    def _embeddings(self, slices: Tensor, targets: Tensor, step: int) -> Embeddings:
        slices = at_least_float32(slices.flatten(0, 1))
        targets = targets.flatten(0, 1)
        n = len(targets) // 2
        view = torch.arange(n, device=targets.device).repeat(2)
        joint = view if self.positives == "view" else _joint(targets)
        if self.positives == "disjoint":
            own = [*targets.T, *(view for _ in range(self._n_slices - targets.shape[1]))]
        else:
            own = [joint] * self._n_slices
        return Embeddings(slices, joint, torch.stack(own), step)

    def on_fit_start(self) -> None:
        """Refuse data that give no views, or more tasks than slices, before anything is trained.

        Raises:
            UserError: If they do.
        """
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        if not isinstance(data, PairDataModule | ViewDataModule):
            raise UserError(
                f"ContrastiveDisentangler trains on two views, which {type(data).__name__} does "
                "not give: use PairDataModule or ViewDataModule."
            )
        n_tasks = data.targets.shape[1]
        if self.positives == "disjoint" and n_tasks > self._n_slices:
            raise UserError(
                f"positives is disjoint and the data have {n_tasks} tasks, but n_slices is "
                f"{self._n_slices}: give as many slices, or fewer tasks."
            )

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return the loss of the views of all ranks."""
        # Half precision would round the gradients that the gather sums over the ranks.
        slices, targets = at_least_float32(self._project(batch.images)), batch.targets
        if self.trainer.world_size > 1:
            slices, targets = (gather_with_gradient(part, dim=1) for part in (slices, targets))
        total, terms = self.loss_terms(slices, targets, self.global_step)
        self.log_losses("train", total, terms, batch_size=batch.rows.shape[-1])
        return total

    def validation_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Log the loss of a batch of pairs, and add up what the principal label explains."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Log the loss of a batch of pairs."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        slices = self._project(batch.images)
        if slices.ndim == 4:
            total, terms = self.loss_terms(slices, batch.targets, self.global_step)
            self.log_losses(stage, total, terms, batch_size=batch.rows.shape[-1])
        moments = _moments(slices.flatten(0, -3), batch.targets[..., 0].flatten(), self.n_classes)
        self._moments = moments if self._moments is None else self._moments + moments

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._moments = None

    def on_validation_epoch_end(self) -> None:
        """Log the share of each slice that the principal label explains; find its slice."""
        assert self._moments is not None  # validation has at least one batch
        moments = self.trainer.strategy.reduce(self._moments, reduce_op="sum")
        explained = _explained(moments)
        self.log_dict({f"val/explained/slice{k}": x.float() for k, x in enumerate(explained)})
        if self.principal_slice is None and self.positives != "disjoint":
            self._principal.copy_(explained.argmax())

    def _project(self, images: Tensor) -> Tensor:
        """Projections, shape (*shape, K, D), of images, shape (*shape, C, H, W)."""
        slices: Tensor = self.head(self.encoder(images.flatten(0, -4)))
        return slices.view(*images.shape[:-3], *slices.shape[1:])


def _joint(targets: Tensor) -> Tensor:
    """Number each combination of T labels, shape (M, T), equal where all are, shape (M,)."""
    joint = torch.zeros_like(targets[:, 0])
    for labels in targets.T:
        joint = joint * (labels.max() + 1) + labels
    return joint


def _moments(slices: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Sums of the unit vectors of each class and their number, shape (C, K, D + 1): they add up."""
    units = F.normalize(slices.to(widest_float(slices.device)), dim=-1)
    units = torch.cat([units, torch.ones_like(units[..., :1])], dim=-1)
    return units.new_zeros(n_classes, *units.shape[1:]).index_add_(0, labels, units)


def _explained(moments: Tensor) -> Tensor:
    """Variance between the classes over all variance, in each slice, shape (K,)."""
    sums, counts = moments[..., :-1], moments[..., -1]
    n = counts.sum(0)
    mean = sums.sum(0).square().sum(-1) / n
    between = (sums.square().sum(-1) / counts.clamp_min(1)).sum(0)
    # The squared length of a unit vector is 1.
    return (between - mean) / (n - mean).clamp_min(1e-12)
