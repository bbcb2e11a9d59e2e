"""MPI3D, read from the `.npz` of one of its variants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.cached_factorial import CachedFactorial
from detaux_pl.data.factor_dataset import existing_file
from detaux_pl.data.npz_stream import iterate_npz, npz_header

_URL = "https://github.com/rr-learning/disentanglement_dataset"
_SIMPLE = {
    "object_color": ("white", "green", "red", "blue", "brown", "olive"),
    "object_shape": ("cone", "cube", "cylinder", "hexagonal", "pyramid", "sphere"),
}
_COMPLEX = {
    "object_color": ("yellow", "green", "olive", "red"),
    "object_shape": ("coffee-cup", "tennis-ball", "croissant", "beer-cup"),
}
_COMMON = {
    "object_size": ("small", "large"),
    "camera_height": ("top", "center", "bottom"),
    "background_color": ("purple", "sea green", "salmon"),
}
_AXES = (40, 40)
"""Positions of the robot arm on the horizontal and the vertical axis."""
_BLOCK = 1024


class MPI3D(CachedFactorial):
    """The images of MPI3D, an object on a robot arm: toy, realistic, real or real_complex.

    The number of images tells the variant: `real_complex` has 4 colours and 4 shapes, 460,800
    images, the others 6 of each, 1,036,800. The id of an image is its row in the original file:
    the mixed-radix number of its factors, object colour first, vertical axis fastest. The test
    split is a quarter of the images, drawn uniformly, and val 5 % of the rest: 738,720 for
    training, 38,880 for validation, 259,200 for the test (328,320, 17,280 and 115,200 of
    `real_complex`).

    Args:
        path: The file of one variant, such as `mpi3d_real.npz`, linked from
            https://github.com/rr-learning/disentanglement_dataset; its cache takes 12.7 GB, that
            of `real_complex` 5.7 GB.
        principal: `object_color`, `object_shape`, `object_size`, `camera_height`,
            `background_color`, `horizontal_axis` or `vertical_axis`.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Gondal et al. 2019, arXiv:1906.03292.
    """

    factor_names = (*_SIMPLE, *_COMMON, "horizontal_axis", "vertical_axis")
    image_shape = (3, 64, 64)

    def __init__(
        self,
        path: Path | str,
        principal: str = "object_shape",
        **kwargs: Any,
    ) -> None:
        super().__init__(principal, **kwargs)
        self.path = Path(path)

    def describe(self) -> None:
        """Tell the variant, and with it the sizes of the factors, from the number of images.

        Raises:
            UserError: If the file is missing or is not laid out as an original is.
        """
        if not hasattr(self, "factor_sizes"):
            self._tell_variant()
        super().describe()

    def files(self) -> list[Path]:
        """Return the one file."""
        return [self.path]

    def read_blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Read all images.

        Raises:
            UserError: If the file is damaged.
        """
        for block in iterate_npz(self.path, "images", _BLOCK):
            yield block.transpose(0, 3, 1, 2)

    def _tell_variant(self) -> None:
        existing_file(self.path, f"download a variant that {_URL} links and give its path.")
        shape, dtype = npz_header(self.path, "images")
        layouts = {}
        for objects in (_SIMPLE, _COMPLEX):
            names = {**objects, **_COMMON}
            sizes = (*(len(values) for values in names.values()), *_AXES)
            layouts[math.prod(sizes), 64, 64, 3] = sizes, names
        if shape not in layouts or dtype != np.uint8:
            raise UserError(
                f"{self.path} is not an original of MPI3D: `images` is {dtype} of shape {shape}; "
                f"it should be uint8 of shape {' or '.join(map(str, layouts))}; download a "
                f"variant that {_URL} links."
            )
        self.factor_sizes, self.value_names = layouts[shape]
