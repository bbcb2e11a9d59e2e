"""What the models of one backbone share."""

from __future__ import annotations

from typing import Any, Literal, Self

from torch import Tensor, nn

from detaux_pl.models.backbone import build_backbone, feature_size
from detaux_pl.models.fine_tuning import (
    Freeze,
    checkpoint_gradients,
    freeze_parts,
    parts_of,
    still_frozen,
)
from detaux_pl.models.head import ClassificationHead
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.weighting.base import Weighting


class OneBackbone(MultitaskModel):
    """One backbone, whose flattened map goes to heads that a subclass builds.

    Args:
        image_shape: Channels, height and width of the images. Filled in from the data module by
            the command line.
        backbone: `small_convnet`, `vgg16` (paper, for 3D Shapes), `resnet18`, `resnet34`,
            `resnet50`, or `timm/<model>`, any model of timm, with the tag of its weights or
            without: up to its maps, or to its pooled features where it has none.
        pretrained: Start from ImageNet weights, or from those that timm recommends. Paper: for
            Cars only.
        hidden: Width of the heads' hidden layer. Paper: 512.
        dropout: Share of hidden units that are dropped in training. Paper: 0.1.
        weights: A file with weights of a model of timm to start from, `.safetensors` or a
            checkpoint of torch; None for those that `pretrained` says.
        size: Height and width that the network sees [pixels], or `weights` for those of its
            weights; None for those of the images.
        pooled: Pool the maps to one vector before the heads, as the network does for its own
            classifier.
        freeze: How many parts of the backbone stay as they are, the stem first, then its stages,
            or the blocks of a transformer; or `all`. Their batch statistics stay, too.
        lr_decay: Factor of the learning rate from each part of the backbone to the one before it,
            the heads having `lr`, in (0, 1]; parts are blocks, or stages of what is not timm's.
        checkpointing: Compute what lies within the backbone anew in the backward pass, for less
            memory and a third more time; models of timm alone.

    Raises:
        ValueError: If there is no such backbone, the images are too small for it, there are no
            weights to freeze, or the backbone cannot do what is asked of it.

    References:
        Bao et al. 2022, arXiv 2106.08254 (`lr_decay`).
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
        weights: str | None = None,
        size: int | Literal["weights"] | None = None,
        pooled: bool = False,
        freeze: Freeze = 0,
        lr_decay: float = 1.0,
        checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(task_sizes, weighting, **kwargs)
        if freeze and not pretrained and weights is None:
            raise ValueError(
                f"freeze is {freeze}, but {backbone} starts from random weights: set pretrained, "
                "or give weights, a file of them."
            )
        if not 0 < lr_decay <= 1:
            raise ValueError(f"lr_decay is {lr_decay}: give a factor in (0, 1], 1 for none.")
        self.backbone = build_backbone(backbone, image_shape, pretrained, weights, size, pooled)
        freeze_parts(self.backbone, freeze)
        self.lr_decay = lr_decay
        self._head = feature_size(self.backbone, image_shape), hidden, dropout
        self._parts, self._top = ({}, 0) if lr_decay == 1 else parts_of(self.backbone, False)
        if checkpointing:
            checkpoint_gradients(self.backbone, backbone)
        self.train()  # which a trainer does not ask for

    def train(self, mode: bool = True) -> Self:
        """Leave what is frozen in evaluation mode."""
        super().train(mode)
        still_frozen(self.backbone)
        return self

    def build_head(self, n_classes: int) -> ClassificationHead:
        """Build the head of a task."""
        n_features, hidden, dropout = self._head
        return ClassificationHead(n_features, n_classes, hidden, dropout)

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the flattened map, shape (B, features), alone in a tuple."""
        return (self.backbone(images).flatten(1),)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the backbone's parameters that are trained."""
        return [each for each in self.backbone.parameters() if each.requires_grad]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups, of each part of the backbone by itself."""
        groups = super().parameter_groups()
        if not self._parts:
            return groups
        own: dict[int, list[nn.Parameter]] = {}
        for name, parameter in self.backbone.named_parameters():
            own.setdefault(self._parts[name], []).append(parameter)
        apart = {id(parameter) for part in own.values() for parameter in part}
        for group in groups:
            group["params"] = [each for each in group["params"] if id(each) not in apart]
        slowed = [
            {"params": part, "lr": self.lr * self.lr_decay ** (self._top - k)}
            for k, part in sorted(own.items())
        ]
        return [*(group for group in groups if group["params"]), *slowed]
