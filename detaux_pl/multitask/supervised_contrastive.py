"""The principal task, with images of one class drawn together."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.models.projection_head import ProjectionHeads
from detaux_pl.multitask.added_loss import refuse_weight
from detaux_pl.multitask.single_task import SingleTask


class SupervisedContrastive(SingleTask):
    """`SingleTask`, with the supervised contrastive loss of a projection of its features added.

    `cross entropy + weight * InfoNCE(projection(features), labels)` with `denominator="all"`, over
    the labelled images of the batch of one rank.

    Args:
        weight: Of the contrastive loss, not negative.
        temperature: Scale of the similarities, > 0. Paper: 0.1.
        projection: Dimensions of the projection. Paper: 128.

    Raises:
        ValueError: If an argument is outside its range, images are to be mixed, there is no such
            backbone, or the images are too small for it.

    Example:
        >>> import torch
        >>> model = SupervisedContrastive((3, 16, 16), task_sizes=(10,), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]
        [(2, 10)]

    References:
        Khosla et al. 2020, "Supervised Contrastive Learning", arXiv 2004.11362, eq. 2. Differs from
        it in: both losses train at once, from one view of an image.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        weight: float = 1.0,
        temperature: float = 0.1,
        projection: int = 128,
        **kwargs: Any,
    ) -> None:
        refuse_weight(weight)
        super().__init__(image_shape, task_sizes, backbone, **kwargs)
        if self.recipe.mixes:
            raise ValueError(
                "recipe.mixup or recipe.cutmix is set, and SupervisedContrastive compares images "
                "by their class, of which a mixed one has two: give it 0 for both."
            )
        self.weight = weight
        self.contrast = InfoNCE(temperature, denominator="all")
        self.projection = ProjectionHeads(self._head[0], 1, projection)

    def task_losses(self, features: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Return the sum of both losses, shape (1,)."""
        labels = targets[:, 0]
        known = labels != IGNORED
        contrast = self.contrast(self.projection(features[0])[known, 0], labels[known])
        loss: Tensor = super().task_losses(features, targets) + self.weight * contrast
        return loss
