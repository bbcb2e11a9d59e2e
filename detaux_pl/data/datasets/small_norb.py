"""SmallNORB, read from its binary matrices."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.cached_arrays import CachedArrays
from detaux_pl.data.factor_dataset import check_image_size
from detaux_pl.data.splits import check_share, hold_out

_URL = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/"
_PARTS = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
_BLOCK = 1024


class _Matrix(NamedTuple):
    """What a file of one kind holds: the number at its start, the type and the shape of a row."""

    magic: int
    dtype: str
    row: tuple[int, ...]


_MATRICES = {
    "dat": _Matrix(0x1E3D4C55, "|u1", (2, 96, 96)),
    "cat": _Matrix(0x1E3D4C54, "<i4", ()),
    "info": _Matrix(0x1E3D4C54, "<i4", (4,)),
}


class SmallNORB(CachedArrays):
    """The 48,600 grey images of SmallNORB: toys of five categories, ten instances of each.

    The ids number the images in their stored order, those of the training files first. The
    `official` test split holds the instances 0, 1, 2, 3 and 5 of each category, which training
    never shows; the `random` one holds as many images, drawn uniformly. A share of every class of
    the others is drawn for validation. Azimuths are numbered from 0 to 17, 20 degrees apart.

    Args:
        root: Folder of the six files `smallnorb-5x46789x9x18x6x2x96x96-training-{dat,cat,info}.mat`
            and `smallnorb-5x01235x9x18x6x2x96x96-testing-{dat,cat,info}.mat`, packed as `.mat.gz`
            or not, from https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/.
        principal: `category`, `instance`, `elevation`, `azimuth` or `lighting`.
        image_size: Height and width that the images, of 96, are resized to. In general use: 64.
        camera: Which of the two views of an object, 0 or 1.
        split: `official` or `random`.
        val_share: Share of the training images that is held out for validation, in [0, 1).
        seed: Seed of the drawing.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        LeCun, Huang and Bottou 2004, "Learning Methods for Generic Object Recognition with
        Invariance to Pose and Lighting".
    """

    published = True
    factor_names = ("category", "instance", "elevation", "azimuth", "lighting")
    factor_sizes = (5, 10, 9, 18, 6)
    value_names = {  # noqa: RUF012  as in FactorDataset
        "category": ("animal", "human", "airplane", "truck", "car")
    }
    ids: NDArray[np.int64]

    def __init__(
        self,
        root: Path | str,
        principal: str = "category",
        image_size: int = 64,
        camera: Literal[0, 1] = 0,
        split: Literal["official", "random"] = "official",
        val_share: float = 0.1,
        seed: int = 0,
        cache_dir: Path | str | None = None,
    ) -> None:
        super().__init__(principal, cache_dir)
        check_image_size(image_size)
        if camera not in (0, 1):
            raise ValueError(f"camera is {camera}: give 0 or 1.")
        if split not in ("official", "random"):
            raise ValueError(f"split is {split!r}: give official or random.")
        check_share("val", val_share)
        self.root = Path(root)
        self.image_size = image_size
        self.image_shape = (1, image_size, image_size)
        self.camera = camera
        self.split = split
        self.val_share = val_share
        self.seed = seed

    def describe(self) -> None:
        """Read the factors and assign the splits.

        Raises:
            UserError: If a file is missing or is not laid out as the original is.
        """
        if not hasattr(self, "ids"):
            parts = [self._read_factors(split) for split in _PARTS]
            official = np.array([SPLITS.index(split) for split in _PARTS], dtype=np.int8)
            splits = np.repeat(official, [len(part) for part in parts])
            rng = np.random.default_rng(self.seed)
            if self.split == "random":
                splits = rng.permutation(splits)
            self.factors = np.concatenate(parts)
            hold_out(splits, self.labels, "val", self.val_share, rng)
            self.splits, self.ids = splits, np.arange(len(splits))
        super().describe()

    @property
    def recipe(self) -> dict[str, Any]:
        """The image shape and the camera."""
        return {**super().recipe, "camera": self.camera}

    def files(self) -> list[Path]:
        """Return the two files of images."""
        return [self._file(split, "dat") for split in _PARTS]

    def read_blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Read all images of the camera, the training ones first.

        Raises:
            UserError: If a file is damaged.
        """
        for path in self.files():
            for block in _iterate(path, "dat"):
                yield block[:, self.camera, None]

    def _file(self, split: str, kind: str) -> Path:
        path = self.root / f"{_PARTS[split]}-{kind}.mat"
        packed = path.with_name(f"{path.name}.gz")
        if not path.is_file() and not packed.is_file():
            raise UserError(
                f"{self.root} holds neither {path.name} nor {packed.name}: download it from {_URL}."
            )
        return path if path.is_file() else packed

    def _read_factors(self, split: str) -> NDArray[np.int64]:
        paths = {kind: self._file(split, kind) for kind in _MATRICES}
        counts = {}
        for kind, path in paths.items():
            with _reading(path) as handle:
                counts[path.name] = _read_count(handle, path, kind)
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            raise UserError(
                f"the files of {self.root} do not belong together, by their numbers of rows: "
                f"{found}; download them from {_URL}."
            )
        category, info = (np.concatenate(list(_iterate(paths[k], k))) for k in ("cat", "info"))
        instance, elevation, azimuth, lighting = info.T
        factors = np.column_stack([category, instance, elevation, azimuth // 2, lighting])
        wrong = ((factors < 0) | (factors >= self.factor_sizes)).any(axis=1) | (azimuth % 2 == 1)
        if wrong.any():
            row = int(wrong.argmax())
            raise _other(
                paths["cat" if not 0 <= category[row] < 5 else "info"],
                f"row {row} is of no category, instance, elevation, azimuth or lighting",
            )
        return factors.astype(np.int64)


def _iterate(path: Path, kind: str) -> Iterator[NDArray[Any]]:
    """Read a file in blocks of rows."""
    _, dtype, row = _MATRICES[kind]
    with _reading(path) as handle:
        left = _read_count(handle, path, kind)
        while left:
            shape = (min(left, _BLOCK), *row)
            data = _read(handle, math.prod(shape) * np.dtype(dtype).itemsize)
            yield np.frombuffer(data, dtype).reshape(shape)
            left -= shape[0]
        if handle.read(1):
            raise _other(path, "it has more data than its header says")


def _read_count(handle: IO[bytes], path: Path, kind: str) -> int:
    """Read the header: the type, the number of dimensions and at least three dimensions."""
    magic, _, row = _MATRICES[kind]
    found, n_dims = np.frombuffer(_read(handle, 8), "<i4").tolist()
    if found != magic or n_dims != 1 + len(row):
        raise _other(
            path,
            f"it starts with {found:#010x} and {n_dims} dimensions; they should be "
            f"{magic:#010x} and {1 + len(row)}",
        )
    shape = np.frombuffer(_read(handle, 4 * max(n_dims, 3)), "<i4")[:n_dims].tolist()
    if tuple(shape[1:]) != row or shape[0] < 1:
        raise _other(path, f"its shape is {tuple(shape)}; it should be {(24300, *row)}")
    return int(shape[0])


def _read(handle: IO[bytes], size: int) -> bytes:
    data = handle.read(size)
    if len(data) < size:
        raise EOFError("it ends early")
    return data


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
            yield cast("IO[bytes]", handle)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): download it from {_URL}.") from None


def _other(path: Path, what: str) -> UserError:
    return UserError(f"{path} is not the original of SmallNORB: {what}; download it from {_URL}.")
