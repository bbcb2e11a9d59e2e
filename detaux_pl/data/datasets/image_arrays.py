"""Your own arrays, in an `.npz` or an HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import LABELLED, SPLITS
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.cached_arrays import CachedArrays
from detaux_pl.data.factor_dataset import check_finite, existing_file
from detaux_pl.data.label_column import LabelColumn, number_values
from detaux_pl.data.npz_stream import iterate_npz, npz_headers
from detaux_pl.data.splits import LeftOut, check_share, column_split, draw_missing, set_apart
from detaux_pl.data.value_range import Deep, DeepPixels, Range, check_value_range

_HDF5 = (".h5", ".hdf5", ".hdf")
_LABELS = "biuSU"
"""Kinds of dtypes that labels may have: truth values, integers and strings."""
_SPLIT = "split"
_TRAIN = SPLITS.index("train")
_BLOCK = 64_000_000
"""Bytes of images in one read."""

_KINDS = {"O": "objects", "S": "strings", "U": "strings"}

Layout = Literal["NHW", "NHWC", "NCHW"]


class ImageArrays(CachedArrays):
    """Images and labels in the arrays of an `.npz` or an HDF5 file.

    Images have the shape (N, H, W), (N, H, W, C) or (N, C, H, W), with 1 or 3 channels, as uint8,
    as floats in [0, 1] or, as `value_range` says, as other numbers. Labels are numbers, truth
    values or strings of shape (N,) or (N, 1); their distinct values, ascending, are the classes.
    The ids are the row numbers. Splits come from an
    array of 0, 1 and 2 or of `train`, `val` and `test`; those that it lacks are drawn from its
    training images, stratified by the principal label. An array in a group of an HDF5 file is
    named `group/array`.

    Args:
        path: The file.
        principal: Name of the array of the principal labels.
        images: Name of the array of images.
        columns: Names of further arrays of labels, which serve only the evaluation; None for
            every one of 2 to 1,000 values of which fewer than half of the rows have one for
            themselves.
        split_array: Name of the array of splits; where there is no `split`, or for null, all are
            drawn.
        layout: Order of the axes of the images: `NHW`, `NHWC` or `NCHW`; None to take the axis of
            length 1 or 3 as the channels.
        image_size: Height and width that the images are resized to, whatever their aspect ratio;
            None to leave them as they are.
        val_share: Share of the training images that is held out for validation, in [0, 1).
        test_share: Share of the training images that is held out for the test, in [0, 1).
        seed: Seed of that drawing.
        value_range: Pixel values that become black and white, such as `[0, 4095]`, where they are
            not uint8; what lies outside is clipped. None to have it found: 0 to 1 for floats, and
            for integers 0 to 255, 1023, 4095, 16383 or 65535, the least that holds all pixels.
        leave_out: Splits of the file whose images are left aside, such as `[test]`; None for no
            split.
        unlabelled: Whether images whose principal label is -1, NaN or an empty string have none,
            whatever their split: clusters are found among them too, and their other labels may be
            missing likewise. False for -1 and an empty string to be classes.

    Raises:
        ValueError: If a number is outside its range or the file is of another kind.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> labels = np.repeat(["cat", "dog"], 10)
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "pets.npz"
        ...     np.savez(path, images=np.zeros((20, 8, 8, 3), np.uint8), species=labels)
        ...     pets = ImageArrays(path, principal="species")
        ...     pets.describe()
        ...     pets.image_shape, pets.value_names["species"], np.bincount(pets.splits)
        ((3, 8, 8), ('cat', 'dog'), array([14,  2,  4]))
    """

    may_be_deep = True
    ids: NDArray[np.int64]

    def __init__(
        self,
        path: Path | str,
        principal: str,
        images: str = "images",
        columns: Sequence[str] | None = None,
        split_array: str | None = _SPLIT,
        layout: Layout | None = None,
        image_size: int | None = None,
        val_share: float = 0.1,
        test_share: float = 0.2,
        seed: int = 0,
        cache_dir: Path | str | None = None,
        value_range: tuple[float, float] | None = None,
        leave_out: Sequence[str] | None = None,
        unlabelled: bool = False,
    ) -> None:
        super().__init__(principal, cache_dir)
        self.unlabelled = unlabelled
        path = Path(path)
        if path.suffix.lower() not in (".npz", *_HDF5):
            raise ValueError(f"path is {path}: give a file ending in .npz, {', '.join(_HDF5)}.")
        if layout not in (None, "NHW", "NHWC", "NCHW"):
            raise ValueError(f"layout is {layout!r}: give NHW, NHWC or NCHW, or null.")
        if image_size is not None and image_size < 1:
            raise ValueError(
                f"image_size is {image_size}: give the height and width in pixels, or null."
            )
        check_share("val", val_share)
        check_share("test", test_share)
        self.path = path
        self.images_array = images
        self.columns = columns
        self.split_array = split_array
        self.layout = layout
        self.image_size = image_size
        self.val_share = val_share
        self.test_share = test_share
        self.seed = seed
        self.leave_out = LeftOut(leave_out)
        self.value_range = check_value_range(value_range)

    def describe(self) -> None:
        """Read the shape of the images, and the labels and splits, once.

        Raises:
            UserError: If the file is missing, damaged or does not hold what is asked for.
        """
        if not hasattr(self, "ids"):
            self._read_index()
        super().describe()

    @property
    def recipe(self) -> dict[str, Any]:
        """The image shape, and which array it is and how it is read."""
        made = {**super().recipe, "images": self.images_array, "layout": self._axes}
        # The rows that are left are told by their ids.
        return {**made, "ids": sha256(self.ids.tobytes()).hexdigest()} if self.leave_out else made

    def files(self) -> list[Path]:
        """Return the one file."""
        return [self.path]

    def read_blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Read the images, 64 MB at a time."""
        levels = self.levels
        for _, block in self._stored_blocks():
            if block.dtype != np.uint8:
                block = levels.to_uint8(block)
            if self._axes == "NHW":
                block = block[:, None]
            yield block.transpose(0, 3, 1, 2) if self._axes == "NHWC" else block

    @property
    def origin(self) -> str:
        """The file and its array."""
        return f"{self.path}: array {self.images_array!r}"

    def survey(self) -> DeepPixels:
        """Read the images that are not uint8.

        Raises:
            UserError: If a pixel is NaN or infinite.
        """
        shape, dtype = self._headers[self.images_array]
        found: list[Deep] = []
        if dtype != np.uint8:
            floats = dtype.kind == "f"
            for start, block in self._stored_blocks():
                if floats:
                    check_finite(block, self.ids[start : start + len(block)], self.origin)
                ends = Range(block.min().item(), block.max().item())
                found.append(Deep(ends, floats, before=8 if floats else 0))
        return DeepPixels.of(found, n=shape[0] if found else 0)

    def _stored_blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read the images as they are, 64 MB at a time, each with its first row."""
        shape, dtype = self._headers[self.images_array]
        rows = max(1, _BLOCK // (dtype.itemsize * prod(shape[1:])))
        start = 0
        taken = 0
        for block in _read_blocks(self.path, self.images_array, rows):
            ids = np.arange(start, start + len(block))
            start += len(block)
            if self.leave_out:
                block = block[np.isin(ids, self.ids, assume_unique=True)]
            if len(block):
                yield taken, block
            taken += len(block)

    def _read_index(self) -> None:
        hint = "give the path of an .npz or HDF5 file."
        self._headers = _read_headers(existing_file(self.path, hint))
        channels, height, width = self._find_shape()
        n = self._headers[self.images_array][0][0]
        self.splits, self.ids = self._read_splits(n)
        principal = self._read_labels(self.principal, n)
        labelled = principal.codes >= 0
        set_apart(self.splits, labelled, str(self.path), self.principal)
        columns = {self.principal: principal}
        for name in self.columns if self.columns is not None else self._candidates(n):
            column = self._read_labels(name, n, labelled)
            if self.columns is not None or column.informative:
                columns[name] = column
        factors = np.stack([column.codes for column in columns.values()], axis=1)
        draw_missing(self.splits, factors[:, 0], self.val_share, self.test_share, self.seed)
        if self.image_size is not None:
            height = width = self.image_size
        self.image_shape = (channels, height, width)
        self.factor_names = tuple(columns)
        self.factor_sizes = tuple(len(column.values) for column in columns.values())
        self.value_names = {name: column.values for name, column in columns.items()}
        self.factors = factors

    def _find_shape(self) -> tuple[int, int, int]:
        """Find the order of the axes; return channels, height and width."""
        shape, dtype = self._header(self.images_array)
        if dtype.kind not in "uif":
            what = _KINDS.get(dtype.kind, str(dtype))
            raise self._misfit(f"{self.images_array!r} is {what}: images are integers or floats")
        fitting = [
            layout
            for layout in ("NHW", "NHWC", "NCHW")
            if len(layout) == len(shape)
            and ("C" not in layout or shape[layout.index("C")] in (1, 3))
        ]
        if (self.layout is not None and self.layout not in fitting) or not fitting or 0 in shape:
            wanted = self.layout or "(N, H, W), (N, H, W, C) or (N, C, H, W)"
            raise self._misfit(
                f"{self.images_array!r} has the shape {shape}: images have {wanted}, with 1 or 3 "
                "channels"
            )
        if self.layout is None and len(fitting) > 1:
            raise self._misfit(
                f"{self.images_array!r} has the shape {shape}, whose channels may be first or "
                "last: set layout to NHWC or NCHW"
            )
        self._axes = self.layout or fitting[0]
        size = dict(zip(self._axes, shape, strict=True))
        return size.get("C", 1), size["H"], size["W"]

    def _candidates(self, n: int) -> list[str]:
        return [
            name
            for name, (shape, dtype) in self._headers.items()
            if shape == (n,)
            and dtype.kind in _LABELS
            and name not in (self.images_array, self.split_array, self.principal)
        ]

    def _read_labels(
        self, name: str, n: int, labelled: NDArray[np.bool_] | None = None
    ) -> LabelColumn:
        """Read a column of labels.

        Args:
            name: Its name.
            n: Number of images of the file.
            labelled: Which images have a principal label; None for the principal column itself.
        """
        shape, dtype = self._header(name)
        if dtype.kind not in (*_LABELS, "f"):
            raise self._misfit(
                f"{name!r} is {_KINDS.get(dtype.kind, dtype)}: labels are numbers or strings"
            )
        if shape not in ((n,), (n, 1)):
            columns = "; of one column per class give the number of the largest"
            raise self._misfit(
                f"{name!r} has the shape {shape}, but there are {n:,} images: labels are one per "
                f"image{columns if len(shape) == 2 and shape[0] == n else ''}"
            )
        column = self._read_column(name).reshape(n)[self.ids]
        known = np.ones(len(column), dtype=bool)
        if self.unlabelled and name != self.split_array:
            known = ~_is_missing(column)
            if labelled is not None:  # of others the label has to be there, as it is otherwise
                known |= labelled
        if column.dtype.kind == "f" and not np.isfinite(column[known]).all():
            lacking = int((~np.isfinite(column)).sum())
            raise self._misfit(
                f"{name!r} has NaN or infinite labels of {lacking:,} images: mend them"
            )
        try:
            values = number_values(column[known])
        except UnicodeDecodeError:
            raise self._misfit(f"{name!r} has strings that are not UTF-8: encode them so") from None
        codes = np.full(len(column), -1)
        codes[known] = values.codes
        found = LabelColumn(codes, values.values)
        return found if labelled is None else found.known_by(labelled)

    def _read_splits(self, n: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
        """Return the splits and the rows of what is not left out."""
        self.ids = np.arange(n)
        if self.split_array is None or (self.split_array == _SPLIT and _SPLIT not in self._headers):
            self.leave_out.check((), f"{self.path}, without an array of splits,")
            return np.full(n, _TRAIN, dtype=np.int8), self.ids
        codes, values = self._read_labels(self.split_array, n)
        self.leave_out.check(values, str(self.path))
        left = np.array([value in self.leave_out for value in values])
        known = [-1 if value in self.leave_out else column_split(value) for value in values]
        used = set(codes.tolist())
        if self.unlabelled:  # splits of other names, where no image has a label
            used = set(codes[self._read_labels(self.principal, n).codes >= 0].tolist())
        if unsaid := [k for k, split in enumerate(known) if split is None and k in used]:
            unknown = values[unsaid[0]]
            raise self._misfit(
                f"{self.split_array!r} has the value {unknown!r}: splits are 0, 1, 2 or "
                f"{', '.join(LABELLED)}; leave it out with leave_out: [{unknown}], or set "
                "split_array to null if it means something else"
            )
        kept = np.flatnonzero(~left[codes])
        splits = [_TRAIN if split is None else split for split in known]
        return np.array(splits, dtype=np.int8)[codes[kept]], kept

    def _read_column(self, name: str) -> NDArray[Any]:
        n = self._headers[name][0][0]
        return next(_read_blocks(self.path, name, n))

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        if name not in self._headers:
            raise self._misfit(f"there is no array {name!r}")
        return self._headers[name]

    def _misfit(self, what: str) -> UserError:
        held = ", ".join(
            f"{name!r}: {_KINDS.get(dtype.kind, dtype)} {shape}"
            for name, (shape, dtype) in self._headers.items()
        )
        return UserError(f"{self.path}: {what}. It holds {held or 'no array'}.")


def _is_missing(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each label says that there is none: -1, NaN or an empty string."""
    missing = np.zeros(len(column), dtype=bool)
    if column.dtype.kind in "SU":
        missing |= np.char.str_len(column) == 0
    if column.dtype.kind in "if":
        missing |= (column == -1) | (column != column)
    return missing


def _read_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and dtype of every array of a file, by name; strings of HDF5 are unicode."""
    if path.suffix.lower() not in _HDF5:
        return npz_headers(path)
    headers = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            text = h5py.check_string_dtype(item.dtype) is not None
            headers[name] = (item.shape or (), np.dtype(str) if text else item.dtype)

    with _open_hdf5(path) as file:
        file.visititems(note)
    return headers


def _read_blocks(path: Path, name: str, rows: int) -> Iterator[NDArray[Any]]:
    if path.suffix.lower() not in _HDF5:
        yield from iterate_npz(path, name, rows)
        return
    with _open_hdf5(path) as file:
        array = file[name]
        text = h5py.check_string_dtype(array.dtype) is not None
        for start in range(0, len(array), rows):
            block = (array.asstr() if text else array)[start : start + rows]
            yield block.astype(np.str_) if text else block


@contextmanager
def _open_hdf5(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise UserError(
            f"{path} cannot be read as HDF5 ({error}): give a whole file of that format."
        ) from None
