"""The principal task, with what is hidden of an image to be restored beside it."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detaux_pl.models.dry_run import dry_run
from detaux_pl.multitask.added_loss import AddedLoss

_GRID = 8
"""Patches along each side of an image."""


class MaskedReconstruction(AddedLoss):
    """`SingleTask`, whose backbone also sees masked images that a decoder completes.

    `cross entropy + weight * L`, where the backbone tells the class of the whole image, and L is
    the mean squared error of the decoded masked image over its hidden pixels and their channels.
    Of 8 x 8 patches a share `hidden_share` is black. The decoder is two convolutions of 1 x 1 from
    the backbone's map to the pixels of each of its places; it is not used in prediction.

    Args:
        hidden_share: Share of the patches that is hidden, in (0, 1). Paper: 0.75.

    Raises:
        ValueError: If an argument is outside its range, there is no such backbone, or the images
            are too small for it.

    Example:
        >>> model = MaskedReconstruction((3, 16, 16), task_sizes=(10,), backbone="small_convnet")
        >>> model.reconstruct(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])

    References:
        Das et al. 2024, "Limited Data, Unlimited Potential: A Study on ViTs Augmented by Masked
        Autoencoders", arXiv 2310.20704 (SSAT). Differs from it in: any backbone with a map, to
        which hidden patches are black, in place of a transformer that leaves their tokens out; the
        losses are added.
    """

    added: ClassVar[str] = "reconstruction"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        hidden_share: float = 0.75,
        **kwargs: Any,
    ) -> None:
        if not 0 < hidden_share < 1:
            raise ValueError(f"hidden_share is {hidden_share}: give a share in (0, 1).")
        super().__init__(image_shape, task_sizes, **kwargs)
        self.hidden_share = hidden_share
        shape = dry_run(self.backbone, image_shape).shape
        patch = math.ceil(max(image_shape[1] / shape[2], image_shape[2] / shape[3]))
        self.decoder = nn.Sequential(
            nn.Conv2d(shape[1], 256, 1),
            nn.ReLU(),
            nn.Conv2d(256, image_shape[0] * patch**2, 1),
            nn.PixelShuffle(patch),
        )

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return what the decoder makes of images, of their shape (B, C, H, W)."""
        decoded: Tensor = self.decoder(self.backbone(images))
        if decoded.shape != images.shape:
            decoded = F.interpolate(decoded, images.shape[2:], mode="bilinear")
        return decoded

    def draw_mask(self, images: Tensor) -> Tensor:
        """Draw which pixels are hidden: 1 or 0, shape (B, 1, H, W), as many patches of each image.

        Draws from torch's global generator of the CPU.
        """
        n_patches = _GRID**2
        order = torch.rand(len(images), n_patches).argsort(dim=1)
        hidden = order < max(1, round(self.hidden_share * n_patches))
        grid = hidden.view(-1, 1, _GRID, _GRID).to(images)
        return F.interpolate(grid, images.shape[2:])

    def reconstruction_loss(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return the mean squared error over hidden pixels.

        Args:
            images: Shape (B, C, H, W).
            mask: 1 where a pixel is hidden, shape (B, 1, H, W).
        """
        errors = (self.reconstruct(images * (1 - mask)) - images).square() * mask
        return errors.sum() / (mask.sum() * images.shape[1]).clamp(min=1)

    def added_loss(self, images: Tensor) -> Tensor:
        """Return the loss of the images, shape (B, C, H, W), under a mask that is drawn."""
        return self.reconstruction_loss(images, self.draw_mask(images))
