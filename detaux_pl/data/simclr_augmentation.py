"""Crops, flips, colours and blur, for contrastive models."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.augmentation import Augmentation

Preset = Literal["full", "unmirrored", "color"]


class SimCLRAugmentation(Augmentation):
    """Distort every image by a draw of its own, after SimCLR.

    `full`: random resized crop (8 to 100 % of the area, aspect ratio 3/4 to 4/3) back to the
    size of the image, horizontal flip (1/2), colour jitter (4/5), grey (1/5) and Gaussian blur
    (1/2; kernel a tenth of the image, sigma 0.1 to 2 pixels). `unmirrored`: the same without the
    flip. `color`: colour jitter and grey alone, for data whose factors a crop or a flip would
    destroy.

    Args:
        preset: `full`, `unmirrored` or `color`.
        strength: Strength s of the colour jitter: brightness, contrast and saturation change by
            up to 0.8 s, hue by 0.2 s; in [0, 1.25]. Paper: 1, and 0.5 for CIFAR-10.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> images = torch.full((2, 3, 16, 16), 0.5)
        >>> views = [SimCLRAugmentation("color")(images, seed) for seed in (0, 0, 1)]
        >>> views[0].equal(views[1]), views[0].equal(views[2])
        (True, False)

    References:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
        appendix A. Differs in: the order of brightness, contrast, saturation and hue is random
        per batch, not per image.
    """

    def __init__(self, preset: Preset = "full", strength: float = 1.0) -> None:
        if preset not in get_args(Preset):
            raise ValueError(f"preset is {preset!r}: give full, unmirrored or color.")
        if not 0.0 <= strength <= 1.25:
            raise ValueError(f"strength is {strength}: give a number in [0, 1.25].")
        self.preset = preset
        self.strength = strength

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Return the distorted images, shape (B, C, H, W)."""
        height, width = images.shape[-2:]
        distort = _pipeline(self.preset, self.strength, height, width, images.device)
        # kornia draws from the global generators.
        devices = [images.device] if images.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            distorted: Tensor = distort(images)
        return distorted.clamp(0.0, 1.0)

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of the image, which stays.

        Raises:
            UserError: If the images have no colour.
        """
        if shape[0] != 3:
            raise UserError(
                f"SimCLRAugmentation changes colours, but the images have {shape[0]} channel(s): "
                "it needs 3."
            )
        return shape


@cache
def _pipeline(preset: str, strength: float, height: int, width: int, device: torch.device) -> Any:
    from kornia import augmentation as k  # 3 s to import

    jitter = k.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, p=0.8)
    colours = [jitter, k.RandomGrayscale(p=0.2)]
    if preset == "color":
        return k.AugmentationSequential(*colours).to(device)
    crop = k.RandomResizedCrop((height, width), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    kernel = max(3, int(0.1 * height) // 2 * 2 + 1)
    blur = k.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5)
    flip = [] if preset == "unmirrored" else [k.RandomHorizontalFlip(p=0.5)]
    return k.AugmentationSequential(crop, *flip, *colours, blur).to(device)
