"""Random crops, mirrored half the time."""

from __future__ import annotations

import torch
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.augmentation import Augmentation, cpu_generator


class CropFlip(Augmentation):
    """Crop a square at a random place and mirror it with probability 1/2; the centre to evaluate.

    Args:
        size: Height and width of the crop, at most that of the images. Paper (Cars): 224, of
            images of 256, which `image_size: 256` gives.
        flip: Whether to mirror.

    Raises:
        ValueError: If `size` is not positive.

    Example:
        >>> CropFlip(size=24)(torch.zeros(2, 3, 32, 32), seed=0).shape
        torch.Size([2, 3, 24, 24])
    """

    def __init__(self, size: int = 224, flip: bool = True) -> None:
        if size < 1:
            raise ValueError(f"size is {size}: the height and width of a crop is at least 1.")
        self.size = size
        self.flip = flip

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Return the crops, shape (B, C, size, size)."""
        n, _, height, width = images.shape
        rng = cpu_generator(seed)
        top = torch.randint(height - self.size + 1, (n, 1), generator=rng)
        left = torch.randint(width - self.size + 1, (n, 1), generator=rng)
        mirrored = torch.rand(n, 1, generator=rng) < 0.5
        place = torch.arange(self.size)
        rows = top + place
        columns = left + torch.where(mirrored & self.flip, place.flip(0), place)
        index = torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]
        # n = images, h, w = places, c = channels
        crops = images.movedim(1, -1)[tuple(part.to(images.device) for part in index)]  # n, h, w, c
        return crops.movedim(-1, 1).contiguous()

    def clean(self, images: Tensor) -> Tensor:
        """Return the centre crops."""
        top, left = ((side - self.size) // 2 for side in images.shape[-2:])
        return images[..., top : top + self.size, left : left + self.size]

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of a crop.

        Raises:
            UserError: If the images are smaller.
        """
        if min(shape[1:]) < self.size:
            raise UserError(
                f"CropFlip takes crops of {self.size} pixels, but the images have {shape[1]} x "
                f"{shape[2]}: lower its size or set image_size."
            )
        return shape[0], self.size, self.size
