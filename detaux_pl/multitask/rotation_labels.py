"""Class and rotation as one label."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.multitask.one_backbone import OneBackbone

_TURNS = 4


class RotationLabels(OneBackbone):
    """One backbone and one head that tells class and quarter turns, of four turns of each image.

    The loss is the mean cross entropy of the label (y, r), r = 0..3, over the four turns of every
    image. An image is told by all of its turns together: the logit of class y is the mean over r of
    the logit of (y, r) for the image turned r times. Training and prediction cost four times as
    much. For classes that turning leaves what they are.

    Raises:
        ValueError: If the images are not square, there is no such backbone, or the images are too
            small for it.

    Example:
        >>> model = RotationLabels((3, 16, 16), task_sizes=(10,), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]
        [(2, 10)]

    References:
        Lee et al. 2020, "Self-supervised label augmentation via input transformations", arXiv
        1910.05872, eq. 4 (loss) and 6 (aggregated inference).
    """

    uses_auxiliary: ClassVar[bool] = False

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        **kwargs: Any,
    ) -> None:
        if image_shape[1] != image_shape[2]:
            raise ValueError(f"image_shape is {image_shape}: RotationLabels takes square images.")
        super().__init__(image_shape, task_sizes[:1], backbone, weighting=None, **kwargs)
        self.head = self.build_head(_TURNS * task_sizes[0])

    def represent(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the flattened map of each turn, shape (B, features)."""
        turned = torch.cat([torch.rot90(images, r, (2, 3)) for r in range(_TURNS)])
        features: Tensor = self.backbone(turned)
        return features.reshape(_TURNS, images.shape[0], -1).unbind(0)

    def joint_logits(self, features: tuple[Tensor, ...]) -> Tensor:
        """Return the logit of class y and r turns of each turn of each image.

        Args:
            features: Of each turn, shape (B, features).

        Returns:
            Shape (turns of the image, B, classes, r).
        """
        joint = torch.stack([self.head(each) for each in features])
        return joint.reshape(_TURNS, joint.shape[1], self.sizes[0], _TURNS)

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of the principal task, shape (B, classes), alone in a tuple."""
        joint = self.joint_logits(features)
        return (torch.stack([joint[r, :, :, r] for r in range(_TURNS)]).mean(0),)

    def task_losses(self, features: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Return the loss of class and rotation, shape (1,)."""
        joint, labels = self.joint_logits(features).flatten(2), targets[:, 0]
        known = labels != IGNORED
        told = [
            self.cross_entropy(joint[r], torch.where(known, _TURNS * labels + r, IGNORED))
            for r in range(_TURNS)
        ]
        return torch.stack(told).mean().view(1)
