"""What a data set is: images, sample ids, integer factors and splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detaux_pl.artifacts.codes import SPLITS, UNLABELLED, FactorInfo
from detaux_pl.artifacts.errors import UserError


class FactorDataset(ABC):
    """Images with integer factors, one of which is the principal one.

    A class label is a factor too. A subclass names its factors and its image shape, in `describe`
    where a file must be read for it, fills `ids`, `splits` and `factors` in `setup`, and gives
    pixels by row: either all at once as `pixels` or, where they do not fit in memory, by
    overriding `images`.

    Args:
        principal: Name of the factor whose labels the user has; the others serve only the
            evaluation.

    Raises:
        ValueError: If no factor has that name, where the names need no reading.
    """

    factor_names: tuple[str, ...]
    factor_sizes: tuple[int, ...]
    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    value_names: Mapping[str, Sequence[str]] = MappingProxyType({})
    """What the values of a factor are called, where they have names, in their order."""

    ids: NDArray[np.int64] | NDArray[np.str_]
    """Unique sample ids, shape (N,), ascending."""
    splits: NDArray[np.int8]
    """Index into `SPLITS` of each sample, shape (N,)."""
    factors: NDArray[np.int64]
    """Value of each factor, shape (N, F); -1 where it is unknown, as the principal one is in the
    split `unlabelled`."""
    published: bool = False
    """Whether these are the images of a publication, which nobody is to mend."""
    pixels: Tensor | None = None
    """All images as uint8, shape (N, C, H, W), where they are in memory or mapped to it."""
    partners: NDArray[np.int64] | None = None
    """Row of the other view of each image, shape (N,), where the data come as pairs."""

    def __init__(self, principal: str) -> None:
        self.principal = principal
        if hasattr(self, "factor_names"):
            self._check_principal()

    def _check_principal(self) -> None:
        if self.principal not in self.factor_names:
            raise ValueError(
                f"the principal factor {self.principal!r} does not exist in {type(self).__name__}: "
                f"choose one of {', '.join(self.factor_names)}."
            )

    def describe(self) -> None:
        """Learn names and sizes of the factors and the image shape, which models are built for.

        Reads an index at most, never images, and may be called again. A subclass that reads sets
        the three and calls this method last.

        Raises:
            UserError: If the index is missing or does not fit.
            ValueError: If no factor has the name of the principal one.
        """
        self._check_principal()

    def fingerprint(self) -> str | None:
        """Return a digest of the files and labels, known after `describe`.

        A run that was begun with other ones is not gone on with. None where the settings tell all:
        data that are made here, and published files whose checksums or labels are checked.
        """
        return None

    def prepare(self) -> None:  # noqa: B027  a hook: most data sets have nothing to prepare
        """Do once per machine what all processes share: fill caches, check files."""

    @abstractmethod
    def setup(self) -> None:
        """Fill `ids`, `splits`, `factors` and, if they fit, `pixels`; may be called again."""

    def images(self, rows: Tensor) -> Tensor:
        """Return the images of some rows, uint8, shape (n, C, H, W), on the CPU.

        Args:
            rows: Row numbers, int64, shape (n,).
        """
        if self.pixels is None:
            raise NotImplementedError(f"{type(self).__name__} keeps no pixels in memory.")
        return self.pixels.index_select(0, rows)  # plain indexing takes 7 times as long on uint8

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def info(self) -> FactorInfo:
        """Names and sizes of the factors, and the names of their values."""
        sizes = dict(zip(self.factor_names, self.factor_sizes, strict=True))
        named = {
            name: tuple(map(str, names))
            for name, names in self.value_names.items()
            if len(names) == sizes.get(name)
        }
        return FactorInfo(self.factor_names, self.factor_sizes, self.principal, value_names=named)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Values of the principal factor, shape (N,)."""
        return self.factor(self.principal)

    @property
    def n_classes(self) -> int:
        """Number of values of the principal factor."""
        return self.factor_sizes[self.factor_names.index(self.principal)]

    def factor(self, name: str) -> NDArray[np.int64]:
        """Return the values of one factor, shape (N,)."""
        return self.factors[:, self.factor_names.index(name)]

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of one split, ascending."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def check(self) -> None:
        """Check that the data can be trained on.

        Raises:
            UserError: If the train split is empty or its principal labels are all alike, or a
                sample outside of the split `unlabelled` has no principal label.
        """
        lacking = np.flatnonzero((self.labels < 0) & (self.splits != SPLITS.index(UNLABELLED)))
        if lacking.size:
            raise UserError(
                f"{type(self).__name__} has {lacking.size:,} images without a value of "
                f"{self.principal!r} (the first is {self.ids[lacking[0]]}): these belong in the "
                f"split {UNLABELLED}."
            )
        present = np.unique(self.labels[self.rows("train")])
        if present.size < 2:
            what = f"one class only ({present[0]})" if present.size else "no image"
            raise UserError(
                f"the train split of {type(self).__name__} has {what} of {self.principal!r}: "
                "at least 2 classes are needed."
            )


@contextmanager
def naming_text_of(dataset: FactorDataset) -> Iterator[None]:
    """Say of which data it is, where text in them is not UTF-8.

    Raises:
        UserError: If it is not.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        places = (getattr(dataset, name, None) for name in ("path", "root"))
        place = next(filter(None, places), type(dataset).__name__)
        raise UserError(f"{place} holds text that is not UTF-8 ({error}): encode it so.") from None


def existing_file(path: Path, hint: str) -> Path:
    """Return `path` if it is a file.

    Raises:
        UserError: If it is not; `hint` says what to do.
    """
    if path.is_dir():
        raise UserError(f"{path.absolute()} is a folder: {hint}")
    if not path.is_file():
        raise UserError(f"the data file {path.absolute()} does not exist: {hint}")
    return path


def check_image_size(image_size: int) -> None:
    """Check the height and width that images are to have.

    Raises:
        ValueError: If it is not positive.
    """
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}: give the height and width in pixels.")


def to_uint8(
    images: NDArray[np.floating], ids: NDArray[np.generic], name: str
) -> NDArray[np.uint8]:
    """Turn images in [0, 1] into uint8, rounded to the nearest level.

    Args:
        images: Floating-point images, shape (n, ...).
        ids: Id of each image, shape (n,), for the message.
        name: What they are, for the message.

    Raises:
        UserError: If a pixel is NaN, infinite or outside [0, 1].
    """
    check_finite(images, ids, name)
    if images.min(initial=0.0) < 0.0 or images.max(initial=0.0) > 1.0:
        raise UserError(
            f"{name} has pixels from {images.min():g} to {images.max():g}: scale them to [0, 1] "
            "or give uint8."
        )
    levels: NDArray[np.uint8] = np.rint(images * 255.0).astype(np.uint8)
    return levels


def check_finite(images: NDArray[np.floating], ids: NDArray[np.generic], name: str) -> None:
    """Refuse pixels that are NaN or infinite; the arguments are those of `to_uint8`.

    Raises:
        UserError: If there is one.
    """
    finite = np.isfinite(images).all(axis=tuple(range(1, images.ndim)))
    if not finite.all():
        raise UserError(
            f"{name} holds NaN or infinite pixels (first in image {ids[finite.argmin()]}): "
            "mend or remove them."
        )


def as_rows(rows: NDArray[np.int64]) -> Tensor:
    """Return row numbers as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64))
