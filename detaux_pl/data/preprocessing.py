"""From an image as it is found to what a model saw of its kind in the test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.augmentation import Augmentation
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.read_image import MAX_PIXELS, Fit, Source, read_image
from detaux_pl.data.value_range import Levels


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of an image before a model sees it: everything but noise and chance.

    Args:
        shape: Channels, height and width of the images of the data set.
        fit: What becomes of another aspect ratio: `crop`, `stretch` or `pad`.
        levels: How pixels of more than 8 bits become bytes; None for the whole range of 16 bits.
        max_pixels: Most pixels that a file may have.
        image_size: Height and width to which the data module resizes what it read [pixels]; None
            for no such step.
        augmentation: What of a training's changes of images evaluation keeps, such as a crop of
            the centre; None for nothing.
    """

    shape: tuple[int, int, int]
    fit: Fit = "crop"
    levels: Levels | None = None
    max_pixels: int = MAX_PIXELS
    image_size: int | None = None
    augmentation: Augmentation | None = None

    @classmethod
    def of(
        cls, dataset: FactorDataset, image_size: int | None, augmentation: Augmentation | None
    ) -> Self:
        """Take it from a data set, and from the settings of the module that gives its images."""
        deep = getattr(dataset, "may_be_deep", False)
        given = getattr(dataset, "fit", "crop")
        return cls(
            shape=dataset.image_shape,
            fit=cast(Fit, given) if given in get_args(Fit) else "crop",
            levels=cast(Levels, dataset.levels) if deep else None,  # type: ignore[attr-defined]
            max_pixels=getattr(dataset, "max_pixels", MAX_PIXELS),
            image_size=image_size,
            augmentation=augmentation,
        )

    def read(self, source: Source) -> NDArray[np.uint8]:
        """Read an image as the data set would.

        Args:
            source: A file, or an image that Pillow has opened.

        Returns:
            Pixels, shape (C, H, W).

        Raises:
            ValueError: If it is no image, a damaged one or too large.
            UserError: If the images of the data set have neither 1 nor 3 channels.
        """
        channels, height, width = self.shape
        if channels not in (1, 3):
            raise UserError(
                f"the network takes images of {channels} channels, and a file is read as 1 or 3: "
                "give arrays from Python."
            )
        return read_image(source, (height, width), channels, self.fit, self.levels, self.max_pixels)

    def read_array(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Take an array for an image.

        Args:
            pixels: Shape (H, W), or (H, W, C) with the channels last; of the size of the data set,
                or of any where they are those of a grey or colour image.

        Returns:
            Pixels, shape (C, H, W).

        Raises:
            ValueError: If it is no image.
        """
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise ValueError(
                f"an image is {pixels.dtype} of shape {pixels.shape}: give uint8 of shape (H, W) "
                "or (H, W, C)."
            )
        planes = pixels[..., None] if pixels.ndim == 2 else pixels
        if planes.shape == (*self.shape[1:], self.shape[0]):
            return np.ascontiguousarray(planes.transpose(2, 0, 1))
        if planes.shape[2] not in (1, 3, 4):
            raise ValueError(f"an image is of shape {pixels.shape}: give 1, 3 or 4 channels, last.")
        return self.read(Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes))

    def finish(self, pixels: Tensor) -> Tensor:
        """Turn what was read into what the model sees.

        Args:
            pixels: uint8, shape (B, C, H, W).

        Returns:
            Float images in [0, 1], shape (B, C, height, width) of the model.
        """
        images = as_floats(pixels, self.image_size)
        return images if self.augmentation is None else self.augmentation.clean(images)


def as_floats(pixels: Tensor, image_size: int | None) -> Tensor:
    """Turn pixels into floats of the size that a data module gives, on their device.

    Args:
        pixels: uint8, shape (B, C, H, W).
        image_size: Height and width of the result [pixels]; None for those of the images.

    Returns:
        In [0, 1], shape (B, C, height, width).
    """
    images = pixels.to(torch.float32).div_(255)
    if image_size is not None and images.shape[-2:] != (image_size, image_size):
        size = (image_size, image_size)
        images = F.interpolate(images, size, mode="bilinear", antialias=True)
    return images
