"""Hugging Face data sets of images, saved in a folder or from the hub."""

from __future__ import annotations

import importlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.data.cached_pixels import CachedPixels, UnreadableImagesError
from detaux_pl.data.factor_dataset import check_image_size
from detaux_pl.data.image_files import Unreadable, name_some
from detaux_pl.data.label_column import LabelColumn, number_values
from detaux_pl.data.pixel_cache import PixelWriter
from detaux_pl.data.read_image import MAX_PIXELS, Fit, read_deep, read_image, unguarded
from detaux_pl.data.splits import (
    SPLIT_NAMES,
    LeftOut,
    check_share,
    draw_missing,
    set_apart,
    split_index,
)
from detaux_pl.data.value_range import Deep, DeepPixels, Levels, check_value_range

_PIECE = 256
"""Images that are decoded before they are handed over."""
_LABELS = ("int", "uint", "bool", "string", "large_string")
"""What the types of values that may be labels begin with."""
_SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
"""Files that `save_to_disk` writes."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class HuggingFace(CachedPixels):
    """Images and labels of a Hugging Face data set; needs the extra `hf`.

    Images are decoded once, as image files are, and cached under the fingerprints of the data
    set. Labels are `ClassLabel`, number, truth value or string columns; of all but the first the
    distinct values, ascending, are the classes. The splits `train`, `validation` and `test` are
    kept; those that are missing are drawn from the training images, stratified by the principal
    label. The id of an image is its split and its row, `train/0000042`.

    Args:
        path: Folder that `save_to_disk` wrote, a parquet file or a folder of such, or the name of
            a data set of the hub, which is downloaded.
        principal: Name of the column of the principal labels.
        image_column: Name of the column of images.
        columns: Names of further columns of labels, which serve only the evaluation; None for
            every complete one of 2 to 1,000 values of which fewer than half of the rows have one
            for themselves.
        subset: Name of the subset of a data set of the hub that has several.
        image_size: Height and width of the images, of every one alike.
        channels: 1 for grey or 3 for RGB.
        fit: What becomes of another aspect ratio: `crop`, `stretch` or `pad`.
        val_share: Share of the training images that is held out for validation, in [0, 1).
        test_share: Share of the training images that is held out for the test, in [0, 1).
        seed: Seed of that drawing.
        value_range: Pixel values that become black and white, of images of more than 8 bits, as
            for image files; None to have it found.
        max_pixels: Most pixels that an image may have.
        leave_out: Splits that are left aside, such as `[test]` where its labels are missing or -1;
            None for no split.
        unlabelled: Whether images whose principal label is missing or -1 are taken, which clusters
            are found among too, whatever their split; those of a split of another name, such as
            `unsupervised`, as well, and their other labels may be missing. False to refuse them.

    Raises:
        ValueError: If a number is outside its range.
    """

    may_be_deep = True
    ids: NDArray[np.str_]

    def __init__(
        self,
        path: str | Path,
        principal: str,
        image_column: str = "image",
        columns: Sequence[str] | None = None,
        subset: str | None = None,
        image_size: int = 64,
        channels: int = 3,
        fit: Fit = "crop",
        val_share: float = 0.1,
        test_share: float = 0.2,
        seed: int = 0,
        cache_dir: Path | str | None = None,
        value_range: tuple[float, float] | None = None,
        max_pixels: int = MAX_PIXELS,
        leave_out: Sequence[str] | None = None,
        unlabelled: bool = False,
    ) -> None:
        super().__init__(principal, cache_dir)
        self.unlabelled = unlabelled
        check_image_size(image_size)
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}: give 1 for grey or 3 for RGB.")
        if max_pixels < 1:
            raise ValueError(f"max_pixels is {max_pixels}: give the most pixels of an image.")
        check_share("val", val_share)
        check_share("test", test_share)
        self.path = str(path)
        self.image_column = image_column
        self.columns = columns
        self.subset = subset
        self.image_size = image_size
        self.image_shape = (channels, image_size, image_size)
        self.fit: Fit = fit
        self.val_share = val_share
        self.test_share = test_share
        self.seed = seed
        self.value_range = check_value_range(value_range)
        self.max_pixels = max_pixels
        self.leave_out = LeftOut(leave_out)
        self.unreadable: list[Unreadable] = []
        self._parts: dict[str, Any] = {}

    def describe(self) -> None:
        """Read the labels of all splits, once.

        Raises:
            UserError: If the data set cannot be read or does not hold what is asked for.
        """
        if not hasattr(self, "ids"):
            self._read_index()
        super().describe()

    @property
    def recipe(self) -> dict[str, Any]:
        """The column of images, size, channels and fit."""
        return {"column": self.image_column, "shape": list(self.image_shape), "fit": self.fit}

    def content_key(self) -> str:
        """Return a digest of the fingerprints of all splits."""
        return self._key

    def incomplete(self) -> UnreadableImagesError:
        """Name some of the images that cannot be decoded."""
        named = name_some([f"{name} ({why})" for name, why in self.unreadable])
        return UnreadableImagesError(
            f"{len(self.unreadable)} of {self.n_images():,} images of {self.path} cannot be read: "
            f"{named}. Mend or filter them out."
        )

    def render(self, rows: NDArray[np.int64], write: PixelWriter) -> Iterator[NDArray[np.int64]]:
        """Decode images in threads, which Pillow lets run side by side."""
        self.unreadable = []
        start = 0
        decode = partial(self._decode, levels=self.levels)
        with unguarded(), ThreadPoolExecutor() as pool:
            for part in self._load().values():
                here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(part))]
                for piece in np.array_split(here, -(-len(here) // _PIECE) or 1):
                    stored = part[piece - start][self.image_column]
                    good, images = [], []
                    for row, image in zip(piece, pool.map(decode, stored), strict=True):
                        if isinstance(image, str):
                            self.unreadable.append(Unreadable(Path(self.ids[row]), image))
                        else:
                            good.append(row)
                            images.append(image)
                    if good:
                        write(np.array(good), np.stack(images))
                        yield np.array(good)
                start += len(part)

    @property
    def origin(self) -> str:
        """The folder, or the name of the hub."""
        return self.path

    def survey(self) -> DeepPixels:
        """Decode the images of more than 8 bits."""
        found: list[Deep] = []
        parts = self._load()
        with (
            warnings.catch_warnings(), unguarded(), ThreadPoolExecutor() as pool,
            progress_bar("look for deep pixels", self.n_images()) as advance,
        ):  # fmt: skip
            warnings.simplefilter("ignore")  # render tells what is wrong with an image
            for name, part in parts.items():
                for start in range(0, len(part), _PIECE):
                    stored = part[start : start + _PIECE][self.image_column]
                    for row, deep in enumerate(pool.map(self._read_deep, stored), start):
                        found += [] if deep is None else [deep._replace(name=f"{name}/{row:07d}")]
                    advance(len(stored))
        return DeepPixels.of(found)

    def _read_deep(self, stored: dict[str, Any] | None) -> Deep | None:
        source = _source(stored)
        return None if source is None else read_deep(source, self.max_pixels)

    def _decode(self, stored: dict[str, Any] | None, levels: Levels) -> NDArray[np.uint8] | str:
        """Return the pixels, or why there are none."""
        source = _source(stored)
        if source is None:
            return "there is no image"
        try:
            return read_image(
                source, self.image_shape[1:], self.image_shape[0], self.fit, levels, self.max_pixels
            )
        except ValueError as error:
            return str(error)

    def _read_index(self) -> None:
        principal = self._read_labels(self.principal)
        labelled = principal.codes >= 0
        columns = {self.principal: principal}
        for name in self.columns if self.columns is not None else self._candidates(labelled):
            column = self._read_labels(name, labelled)
            if self.columns is not None or column.informative:
                columns[name] = column
        parts = self._load()
        sizes = [len(part) for part in parts.values()]
        for name, own in zip(parts, np.split(labelled, np.cumsum(sizes)[:-1]), strict=True):
            if split_index(name) is None and own.any():
                raise self._unknown_split(name, parts)
        # Those of other names have no label, and are set apart at once.
        splits = [split_index(name) or 0 for name in parts]
        self.splits = np.repeat(np.array(splits, dtype=np.int8), sizes)
        set_apart(self.splits, labelled, self.path, self.principal)
        self.factors = np.stack([column.codes for column in columns.values()], axis=1)
        draw_missing(self.splits, self.factors[:, 0], self.val_share, self.test_share, self.seed)
        self.factor_names = tuple(columns)
        self.factor_sizes = tuple(len(column.values) for column in columns.values())
        self.value_names = {name: column.values for name, column in columns.items()}
        self.ids = np.array(_ids(parts), dtype=np.str_)

    def _candidates(self, labelled: NDArray[np.bool_]) -> list[str]:
        """Return the complete columns that could be labels, but for the principal one."""
        return [
            name
            for name, feature in _features(self._load()).items()
            if name != self.principal
            and _is_label(feature)
            and None not in compress(self._read_values(name), labelled)
        ]

    def _read_labels(self, name: str, labelled: NDArray[np.bool_] | None = None) -> LabelColumn:
        """Read a column; `labelled` says which images have a principal label, if it is another."""
        parts = self._load()
        feature = _features(parts).get(name)
        if feature is None:
            setting = "principal" if name == self.principal else "columns"
            raise self._misfit(f"it has no column {name!r}: give another as {setting}", parts)
        if not _is_label(feature, (*_LABELS, "float")):
            raise self._misfit(
                f"column {name!r} has no labels: they are classes, numbers or strings", parts
            )
        values = self._read_values(name)
        missing = np.array([value is None for value in values])
        wrong = missing & (not self.unlabelled if labelled is None else labelled)
        if wrong.any():
            lacking = list(compress(_ids(parts), wrong))
            splits = {image.split("/")[0] for image in lacking}
            others = [split for split in sorted(splits) if split_index(split) != 0]
            take = "; unlabelled: true takes them to find clusters among, too"
            hint = f"; leave the split out with leave_out: [{', '.join(others)}]"
            raise self._misfit(
                f"{len(lacking):,} images have no label in column {name!r} (the first is "
                f"{lacking[0]}){hint if len(others) == len(splits) else ''}"
                f"{take if labelled is None else ''}",
                parts,
            )
        codes = np.full(len(values), -1)
        known = list(compress(values, ~missing))
        if isinstance(feature, _datasets().ClassLabel):
            codes[~missing] = known
            return LabelColumn(codes, tuple(feature.names))
        codes[~missing], names = number_values(np.array(known))
        found = LabelColumn(codes, names)
        return found if labelled is None else found.known_by(labelled)

    def _read_values(self, name: str) -> list[Any]:
        """Return a column of all splits, None where a label is missing."""
        values: list[Any] = []
        for part in self._load().values():
            values += part.select_columns([name])[:][name]
        if isinstance(_features(self._load())[name], _datasets().ClassLabel):
            return [None if value == -1 else value for value in values]  # -1 says unlabelled
        unsaid = (-1, "") if self.unlabelled and name == self.principal else ()
        return [None if value != value or value in unsaid else value for value in values]  # NaN

    def _load(self) -> dict[str, Any]:
        """Open the splits, by name, ascending, with their images left encoded."""
        if self._parts:
            return self._parts
        library = _datasets()
        opened = self._open()
        parts = {"train": opened} if isinstance(opened, library.Dataset) else dict(opened)
        self.leave_out.check(list(parts), self.path)
        parts = {name: part for name, part in parts.items() if name not in self.leave_out}
        for name, part in parts.items():
            if split_index(name) is None and not self.unlabelled:
                raise self._unknown_split(name, parts)
            if part.features != _features(parts):
                raise self._misfit(f"split {name!r} has other columns than the first", parts)
            if not _is_image(part.features.get(self.image_column)):
                what = f"it has no column of images {self.image_column!r}"
                raise self._misfit(f"{what}: give another as image_column", parts)
        parts = {name: parts[name] for name in sorted(parts) if len(parts[name])}
        if not parts:
            raise self._misfit("it has no row", parts)
        files = self._parquet_files()
        if files:  # the fingerprints would be those of their place and date
            prints = [digest.tobytes().hex() for digest in self.digests_of(files, self.path)]
            prints += parts
        else:
            prints = [f"{name} {part._fingerprint}" for name, part in parts.items()]
        self._key = sha256("\n".join(prints).encode()).hexdigest()
        encoded = library.Image(decode=False)
        self._parts = {
            name: part.cast_column(self.image_column, encoded) for name, part in parts.items()
        }
        return self._parts

    def _unknown_split(self, name: str, parts: Mapping[str, Any]) -> UserError:
        known = ", ".join(SPLIT_NAMES)
        return self._misfit(
            f"it has a split {name!r}: save it with splits named {known}, or leave it out with "
            f"leave_out: [{name}]",
            parts,
        )

    def _parquet_files(self) -> list[Path]:
        """Return the parquet files that the path names; none where it is of another kind."""
        path = Path(self.path)
        if path.suffix.lower() == ".parquet" and path.is_file():
            return [path]
        if not path.is_dir() or any((path / name).is_file() for name in _SAVED):
            return []
        return sorted(path.rglob("*.parquet"))

    def _open(self) -> Any:
        library = _datasets()
        if files := self._parquet_files():
            given: dict[str, Any] = {"path": self.path}
            if files == [Path(self.path)]:
                given = {"path": "parquet", "data_files": {"train": self.path}}
            try:
                with _no_bars(library):
                    return library.load_dataset(**given)
            except Exception as error:  # as below
                raise UserError(
                    f"{self.path} cannot be read as parquet of images ({_one_line(error)}): give "
                    "whole files."
                ) from None
        if Path(self.path).is_dir():
            try:
                with _no_bars(library):
                    return library.load_from_disk(self.path)
            except (OSError, ValueError, KeyError) as error:
                raise UserError(
                    f"{self.path} cannot be read as a Hugging Face data set ({_one_line(error)}): "
                    "give a folder that save_to_disk wrote, or one of parquet files."
                ) from None
        if not _HUB_NAME.fullmatch(self.path):
            raise UserError(
                f"the folder {self.path} does not exist: give one that save_to_disk wrote, "
                "parquet files or the name of a data set of the hub."
            )
        try:
            return library.load_dataset(self.path, self.subset)
        # What the client of the hub raises is not documented and changes with its HTTP library.
        except Exception as error:
            raise UserError(
                f"{self.path} is no folder and cannot be read from the Hugging Face hub "
                f"({_one_line(error)}): give a folder that save_to_disk wrote, or check the name, "
                "the subset and the network."
            ) from error

    def _misfit(self, what: str, parts: Mapping[str, Any]) -> UserError:
        held = ", ".join(
            f"{name!r}: {getattr(feature, 'dtype', '') or type(feature).__name__}"
            for name, feature in _features(parts).items()
        )
        return UserError(f"{self.path}: {what}. Its columns are {held or 'none'}.")

    def __getstate__(self) -> dict[str, Any]:
        # The images are cached by then.
        return {**super().__getstate__(), "_parts": {}}


def _source(stored: dict[str, Any] | None) -> Path | io.BytesIO | None:
    if stored is None or (stored["bytes"] is None and stored["path"] is None):
        return None
    return Path(stored["path"]) if stored["bytes"] is None else io.BytesIO(stored["bytes"])


def _datasets() -> Any:
    """Return the optional package, which takes a second to import."""
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise UserError(
            'HuggingFace needs the package datasets: pip install "detaux_pl[hf]".'
        ) from None


def _features(parts: Mapping[str, Any]) -> dict[str, Any]:
    return dict(next(iter(parts.values())).features) if parts else {}


def _is_label(feature: Any, kinds: tuple[str, ...] = _LABELS) -> bool:
    library = _datasets()
    if isinstance(feature, library.ClassLabel):
        return True
    return isinstance(feature, library.Value) and feature.dtype.startswith(kinds)


def _is_image(feature: Any) -> bool:
    """Whether a column is one of images, or of what they are stored as."""
    stored = isinstance(feature, Mapping) and {*feature} == {"bytes", "path"}
    return stored or isinstance(feature, _datasets().Image)


def _ids(parts: Mapping[str, Any]) -> list[str]:
    return [f"{name}/{row:07d}" for name, part in parts.items() for row in range(len(part))]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _no_bars(library: Any) -> Iterator[None]:
    """Hide the progress bars of reading a folder, which is a matter of a moment."""
    if library.are_progress_bars_disabled():
        yield
        return
    library.disable_progress_bars()
    try:
        yield
    finally:
        library.enable_progress_bars()
