"""Data sets of image files: decoded once by worker processes, then mapped from disk."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.data.cached_pixels import CachedPixels, UnreadableImagesError
from detaux_pl.data.factor_dataset import check_image_size
from detaux_pl.data.grouped_splits import draw_missing_groups
from detaux_pl.data.pixel_cache import PixelWriter
from detaux_pl.data.read_image import (
    HEIF,
    HEIF_HINT,
    MAX_PIXELS,
    Fit,
    read_deep,
    read_image,
    register_heif,
    unguarded,
)
from detaux_pl.data.splits import check_share, draw_missing
from detaux_pl.data.value_range import Deep, DeepPixels, Levels, check_value_range

_PIECE = 32
"""Images that a worker decodes before it hands them over."""
_NAMED = 5
"""How many bad files an error names."""
_WORKERS = 8
"""Threads that look for images of more than 8 bits."""


@dataclass(frozen=True)
class FileIndex:
    """What is known of image files before any is opened; rows in ascending order of the ids.

    Args:
        paths: The files, N of them.
        ids: Unique ids, unicode, shape (N,), ascending: paths below the root, with slashes.
        splits: Index into `SPLITS` of each, int8, shape (N,).
        factors: Value of each factor, int64, shape (N, F).
        names: Name of each factor.
        sizes: Number of values of each factor.
        value_names: What the values of a factor are called, in their order.
    """

    paths: Sequence[Path]
    ids: NDArray[np.str_]
    splits: NDArray[np.int8]
    factors: NDArray[np.int64]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    value_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Unreadable(NamedTuple):
    """A file that gives no image, and why."""

    path: Path
    reason: str


class FoundImages(NamedTuple):
    """What a folder holds.

    Args:
        names: Files that are images by their name: paths below the folder, with slashes,
            ascending.
        ignored: All others, and what is hidden.
    """

    names: list[str]
    ignored: list[Path]


class ImageFiles(CachedPixels):
    """Images in files, decoded once and cached as uint8 of one size.

    The cache is keyed by the content of the files: a moved folder finds it again, and where some
    files change only those are decoded anew. Formats are those that Pillow reads, see
    `read_image`. A subclass gives `read_index`.

    Args:
        image_size: Height and width of the images, of every file alike.
        channels: 1 for grey or 3 for RGB.
        fit: What becomes of another aspect ratio: `crop`, `stretch` or `pad`.
        val_share: Share of the training images that is held out for validation, in [0, 1).
        test_share: Share of the training images that is held out for the test, in [0, 1).
        seed: Seed of that drawing.
        value_range: Pixel values that become black and white, of files of more than 8 bits, such
            as `[0, 4095]`; what lies outside is clipped. None to have it found, one for all files:
            0 to 255, 1023, 4095, 16383 or 65535, the least that holds all pixels, and 0 to 1 for
            floating-point ones.
        max_pixels: Most pixels that a file may have.

    Raises:
        ValueError: If a number is outside its range.
    """

    may_be_deep = True
    index: FileIndex
    ids: NDArray[np.str_]

    def __init__(
        self,
        principal: str,
        image_size: int,
        channels: int = 3,
        fit: Fit = "crop",
        val_share: float = 0.1,
        test_share: float = 0.2,
        seed: int = 0,
        cache_dir: Path | str | None = None,
        value_range: tuple[float, float] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(principal, cache_dir)
        check_image_size(image_size)
        if max_pixels < 1:
            raise ValueError(f"max_pixels is {max_pixels}: give the most pixels of a file.")
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}: give 1 for grey or 3 for RGB.")
        check_share("val", val_share)
        check_share("test", test_share)
        self.image_size = image_size
        self.image_shape = (channels, image_size, image_size)
        self.fit: Fit = fit
        self.val_share = val_share
        self.test_share = test_share
        self.seed = seed
        self.value_range = check_value_range(value_range)
        self.max_pixels = max_pixels
        self.ignored: list[Path] = []
        self.unreadable: list[Unreadable] = []
        self._digests: NDArray[np.uint8] | None = None

    def draw_splits(
        self,
        splits: NDArray[np.int8],
        labels: NDArray[np.int64],
        groups: NDArray[np.int64] | None,
        name: str,
    ) -> NDArray[np.bool_]:
        """Hold out the splits that are missing, image by image or by whole groups.

        Args:
            splits: Index into `SPLITS` of each image, shape (N,); changed in place.
            labels: Principal label of each, or -1, shape (N,).
            groups: Group of each, or -1, shape (N,); None to draw each image by itself.
            name: What the groups are called, for messages.

        Returns:
            Which images are kept, shape (N,), see `draw_missing_groups`.
        """
        if groups is None:
            draw_missing(splits, labels, self.val_share, self.test_share, self.seed)
            return np.ones(len(splits), dtype=np.bool_)
        shares = {"val": self.val_share, "test": self.test_share}
        return draw_missing_groups(splits, labels, groups, shares, self.seed, name)

    @abstractmethod
    def read_index(self) -> FileIndex:
        """List the files with their factors and splits.

        Raises:
            UserError: If the folder or the table does not fit.
        """

    @property
    @abstractmethod
    def place(self) -> Path:
        """The folder or table that tells the files, under which their digests are remembered."""

    def describe(self) -> None:
        """List the files, once."""
        if not hasattr(self, "index"):
            self.index = self.read_index()
            self.factor_names, self.factor_sizes = self.index.names, self.index.sizes
            self.value_names = self.index.value_names
            self.ids, self.splits = self.index.ids, self.index.splits
            self.factors = self.index.factors
        super().describe()

    @property
    def recipe(self) -> dict[str, Any]:
        """Size, channels and fit."""
        return {"shape": list(self.image_shape), "fit": self.fit}

    @property
    def origin(self) -> str:
        """The folder or table."""
        return str(self.place)

    def survey(self) -> DeepPixels:
        """Decode the files of more than 8 bits."""
        with (
            warnings.catch_warnings(), unguarded(), ThreadPoolExecutor(_WORKERS) as pool,
            progress_bar("look for deep pixels", len(self.index.paths)) as advance,
        ):  # fmt: skip
            warnings.simplefilter("ignore")  # render tells what is wrong with a file
            found: list[Deep] = []
            read = partial(read_deep, max_pixels=self.max_pixels)
            for path, deep in zip(self.index.paths, pool.map(read, self.index.paths), strict=True):
                advance(1)
                found += [] if deep is None else [deep._replace(name=str(path))]
        return DeepPixels.of(found)

    def content(self) -> NDArray[np.uint8]:
        """Return the SHA-256 digest of each file, shape (N, 32); zeros where it is not read."""
        if self._digests is None:
            self._digests = self.digests_of(self.index.paths, str(self.place.resolve()))
        return self._digests

    def content_key(self) -> str:
        """Return a digest of all files in their order."""
        return sha256(self.content().tobytes()).hexdigest()

    def incomplete(self) -> UnreadableImagesError:
        """Name some of the files that cannot be decoded."""
        named = name_some([f"{path} ({why})" for path, why in self.unreadable])
        return UnreadableImagesError(
            f"{len(self.unreadable)} of {self.n_images():,} images cannot be read: {named}. "
            "Mend or remove them, `detaux data check` names all; the others are kept."
        )

    def render(self, rows: NDArray[np.int64], write: PixelWriter) -> Iterator[NDArray[np.int64]]:
        """Decode files in worker processes, one per core, which write them themselves."""
        self.unreadable = []
        workers = _n_cores() if len(rows) > 4 * _PIECE else 0
        loader: DataLoader[Any] = DataLoader(
            _Decoded(
                self.index.paths, self.image_shape, self.fit, write, self.levels, self.max_pixels
            ),
            batch_size=None,  # an item is a whole piece
            collate_fn=_as_is,
            sampler=np.array_split(rows, -(-len(rows) // _PIECE)),
            num_workers=workers,
        )
        for good, bad in loader:
            self.unreadable += [Unreadable(self.index.paths[row], why) for row, why in bad]
            yield good


def find_images(root: Path, hint: str) -> FoundImages:
    """List the files below a folder, whatever the case of their suffix.

    Args:
        root: The folder; links to folders are followed.
        hint: What to do, where there is no such folder or no image in it.

    Raises:
        UserError: If a folder cannot be read, there is no image, or a name is not UTF-8.
    """
    if not root.is_dir():
        raise UserError(
            f"{root.absolute()} is a file: {hint}"
            if root.exists()
            else f"the folder {root.absolute()} does not exist: {hint}"
        )
    names: list[str] = []
    ignored: list[Path] = []
    for place, images, others in walk_images(root):
        below = place.relative_to(root)
        prefix = "" if below == Path() else f"{below.as_posix()}/"
        names += [prefix + name for name in images]
        ignored += others
    if not names:
        heif = [str(path) for path in ignored if path.suffix.lower() in HEIF]
        if heif:
            raise UserError(
                f"there are {len(heif):,} HEIF images in {root} ({name_some(heif)}), which need "
                f"pillow-heif: {HEIF_HINT}."
            )
        bare = [str(path) for path in ignored if path.is_file() and not path.suffix]
        what = f" ({len(bare):,} files have no suffix such as .png: {name_some(bare)})"
        raise UserError(f"there is no image in {root}{what if bare else ''}: {hint}")
    for name in names:
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(f"the name of {root}/{name!a} is not UTF-8: rename it.")
    return FoundImages(sorted(names), sorted(ignored))


def walk_images(root: Path) -> Iterator[tuple[Path, list[str], list[Path]]]:
    """Give the folders from a root on: each with the names of its images, and what else it holds.

    Folders and images come by their names; links to folders are followed.

    Raises:
        UserError: If a folder cannot be read.
    """
    for place, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        below = Path(place).relative_to(root)
        left_out = {name for name in folders if is_hidden(name) or leads_back(root, below / name)}
        folders[:] = sorted(name for name in folders if name not in left_out)
        images = sorted(name for name in files if is_image(name) and not is_hidden(name))
        others = left_out | {*files}.difference(images)
        yield Path(place), images, [Path(place, name) for name in others]


def is_image(name: str) -> bool:
    """Whether a file is an image by its name, one that can be read here."""
    suffix = Path(name).suffix.lower()
    return suffix in _image_suffixes() or (suffix in HEIF and register_heif())


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's own, such as thumbnails and what macOS packs."""
    return name.startswith(".") or name == "__MACOSX"


def leads_back(root: Path, folder: Path) -> bool:
    """Whether a folder below the root is a link to one on the way to it, which has no end."""
    path = root / folder
    if not path.is_symlink():
        return False
    return path.resolve() in {(root / part).resolve() for part in folder.parents}


def name_some(names: Sequence[str]) -> str:
    """Join the first few names, and count the rest."""
    more = f"; and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return "; ".join(names[:_NAMED]) + more


def _refuse(error: OSError) -> None:
    raise UserError(
        f"the folder {error.filename} cannot be read ({error.strerror}): mend its permissions or "
        "move it away."
    )


@cache
def _image_suffixes() -> frozenset[str]:
    suffixes = Image.registered_extensions()  # those of formats that can only be written, too
    return frozenset(suffix for suffix, kind in suffixes.items() if kind in Image.OPEN)


class _Decoded(Dataset[Any]):
    """Files by row, a piece at a time: which are written, and which cannot be read."""

    def __init__(
        self,
        paths: Sequence[Path],
        shape: tuple[int, int, int],
        fit: Fit,
        write: PixelWriter,
        levels: Levels,
        max_pixels: int,
    ) -> None:
        self.paths = paths
        self.shape = shape
        self.fit = fit
        self.write = write
        self.levels = levels
        self.max_pixels = max_pixels

    def __getitem__(self, rows: NDArray[np.int64]) -> Any:
        good: list[int] = []
        bad: list[tuple[int, str]] = []
        images = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for row in rows.tolist():
            try:
                with unguarded():
                    images[len(good)] = read_image(
                        self.paths[row], self.shape[1:], self.shape[0], self.fit, self.levels,
                        self.max_pixels,
                    )  # fmt: skip
            except ValueError as error:
                bad.append((row, str(error)))
            else:
                good.append(row)
        written = np.array(good, dtype=np.int64)
        if good:
            self.write(written, images[: len(good)])
        return written, bad


def _as_is(piece: Any) -> Any:
    return piece


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
