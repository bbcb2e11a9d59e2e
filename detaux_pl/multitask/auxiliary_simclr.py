"""The principal task, with two views of an image drawn together beside it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from detaux_pl.data.simclr_augmentation import SimCLRAugmentation
from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.models.projection_head import ProjectionHeads
from detaux_pl.multitask.added_loss import AddedLoss


class AuxiliarySimCLR(AddedLoss):
    """`SingleTask`, whose backbone also tells two views of an image from those of other images.

    `cross entropy + weight * InfoNCE(projection(features of the views), image)`: the class is told
    of the image as the data give it, and the contrast is among two views of each of the images of
    the batch of one rank, labelled or not. Views are those of `SimCLRAugmentation`, which are not
    mirrored unless asked for; of grey images the brightness and the contrast are changed.

    Args:
        temperature: Scale of the similarities, > 0. Paper: 0.5 for CIFAR-10.
        projection: Dimensions of the projection. Paper: 128.
        strength: Strength of the changes of colour, see `SimCLRAugmentation`. Paper: 0.5 for
            CIFAR-10.
        flip: Whether views are mirrored, left for right, with probability 1/2. Paper: yes.

    Raises:
        ValueError: If an argument is outside its range, the images are neither grey nor of colour,
            there is no such backbone, or the images are too small for it.

    Example:
        >>> model = AuxiliarySimCLR((1, 16, 16), task_sizes=(10,), backbone="small_convnet")
        >>> model.draw_views(torch.rand(3, 1, 16, 16)).shape
        torch.Size([6, 1, 16, 16])

    References:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
        arXiv 2002.05709, eq. 1. Differs from it in: it trains beside the labels, not before them;
        the mean is over all views, and a projection has no batch norm.
    """

    added: ClassVar[str] = "contrast"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        temperature: float = 0.5,
        projection: int = 128,
        strength: float = 0.5,
        flip: bool = False,
        **kwargs: Any,
    ) -> None:
        if image_shape[0] not in (1, 3):
            raise ValueError(
                f"image_shape is {image_shape}: AuxiliarySimCLR changes colours, and takes images "
                "of 1 or 3 channels."
            )
        super().__init__(image_shape, task_sizes, **kwargs)
        self.views = SimCLRAugmentation("full" if flip else "unmirrored", strength)
        self.contrast = InfoNCE(temperature)
        self.projection = ProjectionHeads(self._head[0], 1, projection)

    def draw_views(self, images: Tensor) -> Tensor:
        """Draw two views of each image, those of the first draw first, shape (2 B, C, H, W).

        Draws from torch's global generator of the CPU.
        """
        both = images.expand(-1, 3, -1, -1).repeat(2, 1, 1, 1)
        seed = int(torch.randint(2**31, ()))
        return self.views(both, seed)[:, : images.shape[1]]

    def contrastive_loss(self, views: Tensor) -> Tensor:
        """Return the contrastive loss of views, shape (2 B, C, H, W), as `draw_views` orders them.

        Returns:
            Scalar, the mean over the 2 B views [nats].
        """
        images = torch.arange(len(views) // 2, device=views.device).repeat(2)
        (features,) = self.represent(views)
        loss: Tensor = self.contrast(self.projection(features)[:, 0], images)
        return loss

    def added_loss(self, images: Tensor) -> Tensor:
        """Return the contrastive loss of two views of each image, shape (B, C, H, W)."""
        return self.contrastive_loss(self.draw_views(images))
