"""The original 3D Shapes, read from its HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.factor_dataset import existing_file, to_uint8
from detaux_pl.data.shapes_factorial import ShapesFactorial

_HUES = np.arange(10) / 10
_VALUES = (_HUES, _HUES, _HUES, np.linspace(0.75, 1.25, 8), np.arange(4), np.linspace(-30, 30, 15))
"""What the labels of the file say for each value of each factor."""
_BLOCK = 10_000
"""Most images in one read: 123 MB."""


class Shapes3D(ShapesFactorial):
    """The 480,000 images of 3D Shapes, from the original `3dshapes.h5`.

    Images are read by row when they are asked for; the file is opened for each batch, so that
    worker processes, forked or spawned, share no handle. In a compressed file a chunk may span
    thousands of images and must be unpacked for one: `in_memory` reads the file once instead.

    Args:
        path: The file, https://storage.googleapis.com/3d-shapes/3dshapes.h5 (255 MB).
        in_memory: Keep the images of all splits in memory: 12 kB each, 5.9 GB for all.

    Raises:
        ValueError: If an argument is outside its range.
    """

    published = True
    image_shape = (3, 64, 64)

    def __init__(
        self,
        path: Path | str,
        principal: str = "scale",
        split: Literal["compositional", "random"] = "compositional",
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        seed: int = 0,
        in_memory: bool = False,
    ) -> None:
        super().__init__(principal, split, n_train, n_val, n_test, seed)
        self.path = Path(path)
        self.in_memory = in_memory

    def setup(self) -> None:
        """Check the file, assign the splits and, if asked to, read the images.

        Raises:
            UserError: If the file is missing or is not laid out as the original is.
        """
        super().setup()
        if self.pixels is not None:
            return
        with self._open() as file:
            self._check_layout(file)
            if self.in_memory:
                self.pixels = self._read(file["images"], self.ids)

    def images(self, rows: Tensor) -> Tensor:
        """Return the images of some rows, in any order, uint8, shape (n, 3, 64, 64), on the CPU.

        Raises:
            UserError: If a pixel is NaN or outside [0, 1], in a file of floats.
        """
        if self.pixels is not None:
            return self.pixels.index_select(0, rows)
        ids, back = np.unique(self.ids[rows.numpy()], return_inverse=True)
        with self._open() as file:
            return self._read(file["images"], ids)[torch.from_numpy(back)]

    def _open(self) -> h5py.File:
        hint = "download https://storage.googleapis.com/3d-shapes/3dshapes.h5 and give its path."
        try:
            return h5py.File(existing_file(self.path, hint), "r")
        except OSError as error:
            raise UserError(f"{self.path} cannot be read as HDF5 ({error}): {hint}") from None

    def _check_layout(self, file: h5py.File) -> None:
        total = int(np.prod(self.factor_sizes))
        for name, shape, types in (
            ("images", (total, 64, 64, 3), ("uint8", "float32", "float64")),
            ("labels", (total, len(self.factor_sizes)), ("float64", "float32")),
        ):
            found = file.get(name)
            if not isinstance(found, h5py.Dataset):
                what = "is missing"
            elif found.shape != shape or found.dtype.name not in types:
                what = f"is {found.dtype} of shape {found.shape}"
            else:
                continue
            raise UserError(
                f"{self.path} is not the original 3dshapes.h5: `{name}` {what}; it should be "
                f"{types[0]} of shape {shape}."
            )
        values = np.stack(np.meshgrid(*_VALUES, indexing="ij"), axis=-1).reshape(total, -1)
        wrong = ~np.isclose(file["labels"][:], values, atol=1e-3).all(axis=1)
        if wrong.any():
            raise UserError(
                f"{self.path} is not the original 3dshapes.h5: `labels` leave the order of the "
                f"factors in row {wrong.argmax()}."
            )

    def _read(self, images: h5py.Dataset, ids: NDArray[np.int64]) -> Tensor:
        """Read ascending rows, all of neighbouring chunks at once: no chunk is unpacked twice.

        h5py's own selection by a list is ten times slower where every image is a chunk.
        """
        if not len(ids):
            return torch.empty((0, *self.image_shape), dtype=torch.uint8)
        chunk = images.chunks[0] if images.chunks else 1
        apart = (np.diff(ids // chunk) > 1) | (np.diff(ids // _BLOCK) > 0)
        pixels = np.empty((len(ids), *self.image_shape), dtype=np.uint8)
        for part in np.split(np.arange(len(ids)), np.flatnonzero(apart) + 1):
            wanted = ids[part]
            block = images[wanted[0] : wanted[-1] + 1][wanted - wanted[0]]
            if block.dtype != np.uint8:
                block = to_uint8(block, wanted, str(self.path))
            pixels[part] = block.transpose(0, 3, 1, 2)
        return torch.from_numpy(pixels)
