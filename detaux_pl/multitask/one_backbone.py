"""What the models of one backbone share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detaux_pl.models.backbone import build_backbone, feature_size
from detaux_pl.models.head import ClassificationHead
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.weighting.base import Weighting


class OneBackbone(MultitaskModel):
    """One backbone, whose flattened map goes to heads that a subclass builds.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        backbone: `small_convnet`, `vgg16` (paper, for 3D Shapes), `resnet18`, `resnet34`,
            `resnet50`, or `timm/<model>`, any model of timm that has feature maps.
        pretrained: Start from ImageNet weights, or from those that timm recommends. Paper: for
            Cars only.
        hidden: Width of the heads' hidden layer. Paper: 512.
        dropout: Share of hidden units that are dropped in training. Paper: 0.1.

    Raises:
        ValueError: If there is no such backbone, or the images are too small for it.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(task_sizes, weighting, **kwargs)
        self.backbone = build_backbone(backbone, image_shape, pretrained)
        self._head = feature_size(self.backbone, image_shape), hidden, dropout

    def build_head(self, n_classes: int) -> ClassificationHead:
        """Build the head of a task."""
        n_features, hidden, dropout = self._head
        return ClassificationHead(n_features, n_classes, hidden, dropout)

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the flattened map, shape (B, features), alone in a tuple."""
        return (self.backbone(images).flatten(1),)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the backbone's parameters."""
        return list(self.backbone.parameters())
