"""dSprites, read from its `.npz`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.cached_factorial import CachedFactorial
from detaux_pl.data.factor_dataset import existing_file
from detaux_pl.data.npz_stream import iterate_npz, npz_header

_URL = (
    "https://github.com/google-deepmind/dsprites-dataset/raw/master/"
    "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
)
_BLOCK = 1024


class DSprites(CachedFactorial):
    """The 737,280 black and white images of dSprites: a square, an ellipse or a heart.

    The id of an image is its row in the original file: the mixed-radix number of its factors,
    shape first, y fastest. The colour of the file, which has one value, is left out. The test
    split is a quarter of the images, drawn uniformly, and val 5 % of the rest: 525,312 for
    training, 27,648 for validation, 184,320 for the test. The pixels, 0 and 1 in the file, are 0
    and 255 here. The first and the last orientation are a full turn apart: some images of
    different splits are the same.

    Args:
        path: The file `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz` (26 MB; its cache takes
            3 GB) from https://github.com/google-deepmind/dsprites-dataset.
        principal: `shape`, `scale`, `orientation`, `x` or `y`.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Matthey et al. 2017, "dSprites: Disentanglement testing Sprites dataset".
    """

    factor_names = ("shape", "scale", "orientation", "x", "y")
    value_names = {"shape": ("square", "ellipse", "heart")}  # noqa: RUF012  as in FactorDataset
    image_shape = (1, 64, 64)

    def __init__(
        self,
        path: Path | str,
        principal: str = "shape",
        **kwargs: Any,
    ) -> None:
        super().__init__(principal, **kwargs)
        self.path = Path(path)

    def describe(self) -> None:
        """Read the sizes of the factors from the classes in the file.

        Raises:
            UserError: If the file is missing or is not laid out as the original is.
        """
        if not hasattr(self, "factor_sizes"):
            self.factor_sizes = self._read_sizes()
        super().describe()

    def files(self) -> list[Path]:
        """Return the one file."""
        return [self.path]

    def read_blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Read all images, 0 and 255.

        Raises:
            UserError: If the file is damaged or has pixels other than 0 and 1.
        """
        for block in iterate_npz(self.path, "imgs", _BLOCK):
            if block.max() > 1:
                raise self._other(f"`imgs` has pixels up to {block.max()}; they should be 0 and 1")
            yield block[:, None] * np.uint8(255)

    def _read_sizes(self) -> tuple[int, ...]:
        existing_file(self.path, f"download {_URL} and give its path.")
        shape, dtype = npz_header(self.path, "latents_classes")
        if len(shape) != 2 or shape[1] != 6 or shape[0] < 1 or dtype.kind not in "iu":
            raise self._other(
                f"`latents_classes` is {dtype} of shape {shape}; it should be int64 of shape "
                "(737280, 6)"
            )
        images, kind = npz_header(self.path, "imgs")
        if images != (shape[0], 64, 64) or kind != np.uint8:
            raise self._other(
                f"`imgs` is {kind} of shape {images}; it should be uint8 of shape "
                f"({shape[0]}, 64, 64)"
            )
        # Whole: they may be stored in Fortran order, which has no rows.
        (classes,) = iterate_npz(self.path, "latents_classes", shape[0])
        sizes = classes.max(axis=0) + 1
        # The product first: sizes out of their minds must not be enumerated.
        complete = sizes[0] == 1 and (sizes > 0).all() and np.prod(sizes.astype(float)) == shape[0]
        if not complete or not np.array_equal(classes, np.indices(sizes).reshape(6, -1).T):
            raise self._other("`latents_classes` is not every combination once, in order")
        return tuple(sizes[1:].tolist())

    def _other(self, what: str) -> UserError:
        return UserError(f"{self.path} is not the original dSprites: {what}; download {_URL}.")
