"""What models share that learn from how their own training would go: two optimizers, one step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.func import functional_call

from detaux_pl.artifacts.errors import UserError
from detaux_pl.losses.gather import world_size
from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.losses.precision import at_least_float32
from detaux_pl.models.backbone import build_backbone, feature_size
from detaux_pl.models.head import ClassificationHead
from detaux_pl.multitask.base import MultitaskModel, OptimizerName
from detaux_pl.multitask.weighting.state import mean_over_ranks


class Network(nn.Module):
    """One backbone and one head per task.

    Args:
        image_shape: Channels, height and width of the images.
        sizes: Number of classes of each head.
        backbone: Name of the backbone.
        pretrained: Start from ImageNet weights.
        hidden: Width of the heads' hidden layer.
        dropout: Share of hidden units that are dropped in training.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        sizes: Sequence[int],
        backbone: str,
        pretrained: bool,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.backbone: nn.Module = build_backbone(backbone, image_shape, pretrained)
        n_features = feature_size(self.backbone, image_shape)
        self.heads = nn.ModuleList(
            ClassificationHead(n_features, size, hidden, dropout) for size in sizes
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each head, shape (B, size), of images, shape (B, C, H, W)."""
        features = self.backbone(images).flatten(1)
        return tuple(head(features) for head in self.heads)


class LabelGenerator(Network):
    """A network that gives each image soft labels among the auxiliary classes of its own class.

    It has no dropout: its labels are targets, which noise would blur.

    Args:
        n_classes: Number of principal classes.
        n_auxiliary: Auxiliary classes of each principal class.

    Raises:
        ValueError: If `n_auxiliary` is below 2: one class in each would say nothing new.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        n_auxiliary: int,
        backbone: str,
        pretrained: bool,
        hidden: int,
    ) -> None:
        if n_auxiliary < 2:
            raise ValueError(
                f"n_auxiliary is {n_auxiliary}: give each principal class at least 2 auxiliary "
                "classes."
            )
        sizes = (n_classes * n_auxiliary,)
        super().__init__(image_shape, sizes, backbone, pretrained, hidden, dropout=0.0)
        self.n_auxiliary = n_auxiliary

    def labels(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return soft labels, shape (B, classes * n_auxiliary).

        Args:
            images: Float images in [0, 1], shape (B, C, H, W).
            targets: Principal labels, int64, shape (B,).
        """
        return masked_softmax(self(images)[0], targets, self.n_auxiliary)


class BilevelModel(MultitaskModel):
    """A network, and meta parameters that say what it is trained on and learn from its progress.

    Gradients are asked for one by one and averaged over the ranks at once before each step, so
    that nothing relies on the hooks of DDP. The steps of the network alone count as the trainer's
    (`global_step`, `max_steps`, the schedule): as many as batches, as in every other model; those
    of the meta parameters come on top. These have an optimizer of the same kind and a constant
    learning rate. In passes that only serve the meta parameters dropout is off, and batch norm
    uses the statistics of the batch without keeping them.

    Mixed precision is `bf16-mixed`; `16-mixed` is refused, as its scaler knows one backward pass
    only. Lightning refuses `gradient_clip_val` and `accumulate_grad_batches` with such models.

    Args:
        lr: Learning rate of the network.
        weight_decay: Weight decay of the network.
        optimizer: `adamw`, or `sgd` with momentum 0.9, for both.
        lr_schedule: `constant`, or `cosine` from `lr` to 0 over all training steps, for the
            network.
        meta_lr: Learning rate of the meta parameters. Papers: 1e-3.
        meta_weight_decay: Weight decay of the meta parameters. MAXL's paper: 5e-4.

    Raises:
        ValueError: If a rate is not positive, or a weight decay negative.
    """

    network: Network

    def __init__(
        self,
        task_sizes: tuple[int, ...],
        lr: float = 5e-4,
        weight_decay: float = 5e-3,
        optimizer: OptimizerName = "adamw",
        lr_schedule: LearningRateSchedule = "constant",
        meta_lr: float = 1e-3,
        meta_weight_decay: float = 5e-4,
    ) -> None:
        super().__init__(task_sizes, None, lr, weight_decay, optimizer, lr_schedule)
        if not 0 < meta_lr < math.inf or not 0 <= meta_weight_decay < math.inf:
            raise ValueError(
                f"meta_lr is {meta_lr} and meta_weight_decay is {meta_weight_decay}: meta_lr must "
                "be positive, meta_weight_decay must not be negative, and both finite."
            )
        self.automatic_optimization = False
        self.meta_lr = meta_lr
        self.meta_weight_decay = meta_weight_decay

    @abstractmethod
    def meta_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that learn from the network's progress."""

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the flattened map, shape (B, features), alone in a tuple."""
        return (self.network.backbone(images).flatten(1),)

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of each task that is evaluated, shape (B, task size)."""
        own = list(self.network.heads)[: len(self.task_names)]
        return tuple(head(features[0]) for head in own)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the backbone's parameters."""
        return list(self.network.backbone.parameters())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the network's parameters, in one group."""
        return [{"params": list(self.network.parameters())}]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The network's optimizer with its schedule, and that of the meta parameters.

        Raises:
            ValueError: If a cosine schedule has no end to fall to.
        """
        own = super().configure_optimizers()
        parameters, lr, decay = self.meta_parameters(), self.meta_lr, self.meta_weight_decay
        meta: torch.optim.Optimizer
        if self.optimizer == "sgd":
            meta = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=decay)
        else:
            meta = torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
        first = own if isinstance(own, dict) else {"optimizer": own}
        return cast(OptimizerLRScheduler, (first, {"optimizer": meta}))

    def on_fit_start(self) -> None:
        """Refuse what a model that differentiates its own training cannot honour.

        Raises:
            UserError: If the trainer scales losses, or batch norm would gather its statistics.
        """
        if self.trainer.precision == "16-mixed":
            raise UserError(
                f"trainer.precision is 16-mixed, whose scaling {type(self).__name__} cannot undo "
                "in its second derivatives: take bf16-mixed or 32-true."
            )
        if any(isinstance(module, nn.SyncBatchNorm) for module in self.modules()):
            raise UserError(
                f"trainer.sync_batchnorm is set, through which {type(self).__name__} cannot "
                "differentiate twice: leave it out."
            )

    @property
    def current_lr(self) -> float:
        """Present learning rate of the network."""
        return float(self._optimizers()[0].param_groups[0]["lr"])

    def step_network(self, gradients: Sequence[Tensor]) -> None:
        """Step the network, and its learning rate.

        Args:
            gradients: This rank's gradient of each of the network's parameters.
        """
        _step(self._optimizers()[0], list(self.network.parameters()), average(gradients))
        if (schedule := self.lr_schedulers()) is not None:
            cast(Any, schedule).step()

    def step_meta(self, gradients: Sequence[Tensor]) -> None:
        """Step the meta parameters.

        Args:
            gradients: Gradient of each of them, averaged over the ranks.
        """
        # The optimizer itself: Lightning's wrapper would count the step as one of the training.
        _step(self._optimizers()[1].optimizer, self.meta_parameters(), gradients)

    def logits_at(self, parameters: Sequence[Tensor], images: Tensor) -> tuple[Tensor, ...]:
        """Return what the network would give with other values of its parameters.

        Args:
            parameters: A value for each of the network's parameters.
            images: Float images in [0, 1], shape (B, C, H, W).
        """
        names = (name for name, _ in self.network.named_parameters())
        logits: tuple[Tensor, ...] = functional_call(
            self.network, dict(zip(names, parameters, strict=True)), (images,)
        )
        return logits

    def _optimizers(self) -> list[Any]:
        return cast(list[Any], self.optimizers())


def masked_softmax(logits: Tensor, targets: Tensor, n_auxiliary: int) -> Tensor:
    """Softmax over the entries of each sample's own class; the others are exactly 0.

    Args:
        logits: Shape (B, classes * n_auxiliary), the entries of a class side by side.
        targets: Principal labels, int64, shape (B,).
        n_auxiliary: Entries of each class.

    Returns:
        Shape of `logits`; each row sums to 1. In float32 at least.

    Example:
        >>> masked_softmax(torch.zeros(1, 6), torch.tensor([1]), n_auxiliary=2)
        tensor([[0.0000, 0.0000, 0.5000, 0.5000, 0.0000, 0.0000]])

    References:
        Liu et al. 2019, arXiv 1901.08933, section 3.3. Differs from the official code, which adds
        1e-8 to the entries of other classes and overflows at large logits.
    """
    owner = torch.arange(logits.shape[1], device=logits.device) // n_auxiliary
    others = owner != targets[:, None]
    return at_least_float32(logits).masked_fill(others, -torch.inf).softmax(1)


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss of each sample with gamma = 2: `-sum_c t_c (1 - p_c)^2 log p_c` [nats].

    Args:
        logits: Shape (B, classes).
        targets: Labels, int64, shape (B,), or soft labels t, shape (B, classes).

    Returns:
        Shape (B,), in float32 at least.

    Example:
        >>> round(focal_loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)  # log(2) / 4
        0.1733

    References:
        Lin et al. 2017, arXiv 1708.02002, for soft labels as in MAXL (docs/methods.md, 'MAXL').
    """
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1])
    return -(targets * focal_terms(logits)).sum(1)


def focal_terms(logits: Tensor) -> Tensor:
    """`(1 - p)^2 log p` of each class, of which the focal loss is linear, shape (B, classes)."""
    log_p = at_least_float32(logits).log_softmax(1)
    return (1 - log_p.exp()).square() * log_p


def average(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the mean over the ranks of several tensors, in one communication.

    Args:
        gradients: Tensors of this rank, of one type.
    """
    if world_size() == 1:
        return list(gradients)
    mean = mean_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(mean, [gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]


def dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return the scalar product of two lists of tensors."""
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


@contextmanager
def pure(network: nn.Module) -> Iterator[None]:
    """Within it, a network in training drops no units and keeps no batch statistics."""
    modules = list(network.modules())
    dropouts = [m for m in modules if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
    norms = [
        m
        for m in modules
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and m.track_running_stats
    ]
    try:
        for dropout in dropouts:
            dropout.eval()
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for dropout in dropouts:
            dropout.train()
        for norm in norms:
            norm.track_running_stats = True


def _step(optimizer: Any, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None
    # Autocast keeps its low-precision copies of the weights until the batch ends.
    torch.clear_autocast_cache()
