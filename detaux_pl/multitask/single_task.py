"""The principal task alone: what every other model is measured against."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from detaux_pl.losses.learning_rate import LearningRateSchedule
from detaux_pl.models.backbone import build_backbone, feature_size
from detaux_pl.models.head import ClassificationHead
from detaux_pl.multitask.base import MultitaskModel, OptimizerName


class SingleTask(MultitaskModel):
    """One backbone and one head, for the principal task; other labels are ignored.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        task_sizes: Number of classes of each task, the principal one first. Filled in from the
            data module by the command line.
        backbone: `small_convnet`, `vgg16` (paper, for 3D Shapes), `resnet18`, `resnet34`,
            `resnet50`, or `timm/<model>`, any model of timm that has feature maps.
        pretrained: Start from ImageNet weights, or from those that timm recommends. Paper: for
            Cars only.
        hidden: Width of the head's hidden layer. Paper: 512.
        dropout: Share of hidden units that are dropped in training. Paper: 0.1.
        lr: Learning rate. Paper: 5e-4.
        weight_decay: Weight decay. Official code: 5e-3.
        optimizer: `adamw` (paper), or `sgd` with momentum 0.9.
        lr_schedule: `constant`, or `cosine` from `lr` to 0 over all training steps.

    Raises:
        ValueError: If there is no such backbone, or the images are too small for it.

    Example:
        >>> import torch
        >>> model = SingleTask((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]  # principal alone
        [(2, 10)]

    References:
        Skenderi et al., Detaux, the row STL (docs/methods.md, 'Backbones and heads').
    """

    uses_auxiliary: ClassVar[bool] = False

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        hidden: int = 512,
        dropout: float = 0.1,
        lr: float = 5e-4,
        weight_decay: float = 5e-3,
        optimizer: OptimizerName = "adamw",
        lr_schedule: LearningRateSchedule = "constant",
    ) -> None:
        super().__init__(task_sizes[:1], None, lr, weight_decay, optimizer, lr_schedule)
        self.backbone = build_backbone(backbone, image_shape, pretrained)
        n_features = feature_size(self.backbone, image_shape)
        self.head = ClassificationHead(n_features, task_sizes[0], hidden, dropout)

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the flattened map, shape (B, features), alone in a tuple."""
        return (self.backbone(images).flatten(1),)

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of the principal task, shape (B, task size), alone in a tuple."""
        return (self.head(features[0]),)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the backbone's parameters."""
        return list(self.backbone.parameters())
