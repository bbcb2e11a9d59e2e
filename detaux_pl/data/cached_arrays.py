"""Data sets that come as arrays in a few files: resized once, then mapped from disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from detaux_pl.data.cached_pixels import CachedPixels
from detaux_pl.data.pixel_cache import PixelWriter

_BLOCK = 1024
"""Most images to resize at a time."""


class CachedArrays(CachedPixels):
    """Images of arrays in a few files.

    The cache is keyed by the content of the files and by the image shape. A subclass gives
    `files` and `read_blocks`, and fills `ids`, `splits` and `factors`.
    """

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """Return the files that hold the images."""

    @abstractmethod
    def read_blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Read all images in the order of the rows: blocks of shape (m, C, h, w), any h and w."""

    @property
    def recipe(self) -> dict[str, Any]:
        """The image shape."""
        return {"shape": list(self.image_shape)}

    def content_key(self) -> str:
        """Return a digest of all files in their order."""
        files = self.files()
        digests = self.digests_of(files, "\n".join(str(path.resolve()) for path in files))
        return sha256(digests.tobytes()).hexdigest()

    def render(self, rows: NDArray[np.int64], write: PixelWriter) -> Iterator[NDArray[np.int64]]:
        """Read the files from the first on, and resize what is wanted of them."""
        start = 0
        for block in self.read_blocks():
            for part in np.array_split(block, -(-len(block) // _BLOCK)):
                here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(part))]
                if here.size:
                    write(here, resize_pixels(part[here - start], self.image_shape[1:]))
                    yield here
                start += len(part)


def resize_pixels(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize images, shape (n, C, h, w), to a height and width: bilinear, antialiased."""
    if images.shape[2:] == size:
        return images
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    resized: NDArray[np.uint8] = resize(
        tensor, list(size), InterpolationMode.BILINEAR, antialias=True
    ).numpy()
    return resized
