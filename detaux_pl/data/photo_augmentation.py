"""Recipes of changes that photographs are mostly trained with, from light to strong."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.augmentation import Augmentation

Strength = Literal["light", "standard", "strong"]


class PhotoAugmentation(Augmentation):
    """Change every image by a draw of its own, its size kept.

    `light`: a crop, shifted by up to an eighth of each side, of the image with reflected borders.
    `standard`: and two operations of RandAugment at magnitude 9 of 30, which turn, shear, shift or
    change colours. `strong`: at magnitude 15 of 30, and in a quarter of the images a grey
    rectangle of 2 to 33 % of the area. None mirrors unless it is asked for: digits, text, hands
    and whatever left and right tell apart do not bear it.

    Args:
        strength: `light`, `standard` or `strong`.
        flip: Whether to mirror an image, left for right, with probability 1/2.

    Raises:
        ValueError: If there is no such strength.

    Example:
        >>> images = torch.rand(2, 3, 16, 16)
        >>> views = [PhotoAugmentation("strong")(images, seed) for seed in (0, 0, 1)]
        >>> views[0].equal(views[1]), views[0].equal(views[2])
        (True, False)

    References:
        He et al. 2016, arXiv 1512.03385, section 4.2 (crops). Cubuk et al. 2020, arXiv 1909.13719
        (RandAugment, of torchvision). Zhong et al. 2020, arXiv 1708.04896 (erasing); the share of
        images is that of timm.
    """

    def __init__(self, strength: Strength = "standard", flip: bool = False) -> None:
        if strength not in get_args(Strength):
            raise ValueError(f"strength is {strength!r}: give light, standard or strong.")
        self.strength = strength
        self.flip = flip

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Return the changed images, shape (B, C, H, W)."""
        change = _pipeline(self.strength, self.flip, *images.shape[-2:])
        # torchvision draws from the global generator of the CPU, once for all that it is given.
        with torch.no_grad(), torch.random.fork_rng([]):
            torch.manual_seed(seed)
            changed = [change(image) for image in images]
        return torch.stack(changed).clamp(0.0, 1.0) if changed else images

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of the image, which stays.

        Raises:
            UserError: If the images are neither grey nor of colour, and colours are changed.
        """
        if self.strength != "light" and shape[0] not in (1, 3):
            raise UserError(
                f"augment: {self.strength} changes colours, but the images have {shape[0]} "
                "channels, not 1 or 3: take light."
            )
        return shape


@cache
def _pipeline(strength: Strength, flip: bool, height: int, width: int) -> Any:
    from torchvision.transforms import v2  # its import takes a second

    margins = [width // 8, height // 8]
    steps: list[Any] = [v2.RandomCrop((height, width), margins, padding_mode="reflect")]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if strength != "light":
        steps.append(v2.RandAugment(2, 15 if strength == "strong" else 9))
    if strength == "strong":
        steps.append(v2.RandomErasing(0.25, value=0.5))
    return v2.Compose(steps)
