"""Random changes of the training images, on their device."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Augmentation(ABC):
    """What the training sees of an image instead of the image itself.

    All randomness comes from the seed that is given with a batch; torch's global generators are
    left as they are.
    """

    @abstractmethod
    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Return what the training sees of a batch, each image changed by a draw of its own.

        Args:
            images: Images in [0, 1], shape (B, C, H, W).
            seed: Seed of the batch.

        Returns:
            Shape (B, *output_shape).
        """

    def clean(self, images: Tensor) -> Tensor:
        """Return what evaluation sees of a batch, of the same shape per image."""
        return images

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return channels, height and width of what comes out for what goes in.

        Raises:
            UserError: If images of this shape cannot be changed so.
        """
        return shape


def cpu_generator(seed: int) -> torch.Generator:
    """Return a generator on the CPU, whose numbers are the same for every device."""
    return torch.Generator().manual_seed(seed)
