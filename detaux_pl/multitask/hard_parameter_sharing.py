"""One backbone for all tasks, one head for each."""

from __future__ import annotations

from torch import Tensor, nn

from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.models.backbone import build_backbone, feature_size
from detaux_pl.models.head import ClassificationHead
from detaux_pl.multitask.base import MultitaskModel, OptimizerName, refuse_one_task
from detaux_pl.multitask.weighting.base import Weighting
from detaux_pl.multitask.weighting.uncertainty import UncertaintyWeighting


class HardParameterSharing(MultitaskModel):
    """One backbone whose flattened map goes to a head per task.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        task_sizes: Number of classes of each task, the principal one first. Filled in from the
            data module by the command line.
        backbone: `small_convnet`, `vgg16` (paper, for 3D Shapes), `resnet18`, `resnet34`,
            `resnet50`, or `timm/<model>`, any model of timm that has feature maps.
        pretrained: Start from ImageNet weights, or from those that timm recommends. Paper: for
            Cars only.
        weighting: How the losses of the tasks are combined; None for `UncertaintyWeighting`.
            Paper: "as suggested in" Kendall et al. (docs/methods.md, 'Weightings').
        hidden: Width of the heads' hidden layer. Paper: 512.
        dropout: Share of hidden units that are dropped in training. Paper: 0.1.
        lr: Learning rate. Paper: 5e-4.
        weight_decay: Weight decay. Official code: 5e-3.
        optimizer: `adamw` (paper), or `sgd` with momentum 0.9.
        lr_schedule: `constant`, or `cosine` from `lr` to 0 over all training steps.

    Raises:
        ValueError: If there is no auxiliary task, there is no such backbone, or the images are
            too small for it.

    Example:
        >>> import torch
        >>> model = HardParameterSharing((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]
        [(2, 10), (2, 4)]

    References:
        Caruana 1997, "Multitask Learning"; setting of Skenderi et al., Detaux
        (docs/methods.md, 'Backbones and heads').
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        weighting: Weighting | None = None,
        hidden: int = 512,
        dropout: float = 0.1,
        lr: float = 5e-4,
        weight_decay: float = 5e-3,
        optimizer: OptimizerName = "adamw",
        lr_schedule: LearningRateSchedule = "constant",
    ) -> None:
        refuse_one_task("HardParameterSharing", task_sizes)
        weighting = UncertaintyWeighting() if weighting is None else weighting
        super().__init__(task_sizes, weighting, lr, weight_decay, optimizer, lr_schedule)
        self.backbone = build_backbone(backbone, image_shape, pretrained)
        n_features = feature_size(self.backbone, image_shape)
        self.heads = nn.ModuleList(
            ClassificationHead(n_features, size, hidden, dropout) for size in task_sizes
        )

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the flattened map, shape (B, features), alone in a tuple."""
        return (self.backbone(images).flatten(1),)

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size)."""
        return tuple(head(features[0]) for head in self.heads)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the backbone's parameters."""
        return list(self.backbone.parameters())
