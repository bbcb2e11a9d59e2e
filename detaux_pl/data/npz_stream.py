"""Arrays of an `.npz` by blocks of rows; NumPy itself would hold a whole array."""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError

_DAMAGES = (
    OSError, EOFError, ValueError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a damaged file may raise; a header is parsed as Python."""
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and dtype of every array of an `.npz`, by name, without reading the arrays.

    Raises:
        UserError: If the file cannot be read as an `.npz`.
    """
    headers = {}
    with _reading(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as member:
                    headers[name.removesuffix(".npy")] = _header(member)[:2]
    return headers


def npz_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of one array of an `.npz`, without reading the array.

    Raises:
        UserError: If the file cannot be read as an `.npz` or has no such array.
    """
    headers = npz_headers(path)
    if name not in headers:
        raise UserError(
            f"{path} has no array {name!r}: it holds {', '.join(headers) or 'no array'}."
        )
    return headers[name]


def iterate_npz(path: Path, name: str, block: int) -> Iterator[NDArray[Any]]:
    """Read an array of an `.npz` in blocks of rows, in their order.

    Args:
        path: The file.
        name: Name of the array.
        block: Most rows in a block.

    Raises:
        UserError: If the file cannot be read as an `.npz`, has no such array, or the array holds
            Python objects, is a single value or is in Fortran order, unless one block holds it.
    """
    shape, dtype = npz_header(path, name)
    if dtype.hasobject:
        raise UserError(
            f"{path}: array {name!r} holds Python objects, which are not read as they can run "
            "code: save numbers or strings."
        )
    if not shape:
        raise UserError(f"{path}: array {name!r} is a single value: give an array of rows.")
    with _reading(path) as archive, archive.open(f"{name}.npy") as member:
        fortran = _header(member)[2]
        if fortran and block < shape[0]:
            raise UserError(
                f"{path}: array {name!r} is in Fortran order, which cannot be read by rows: save "
                "np.ascontiguousarray of it."
            )
        for start in range(0, shape[0], block):
            here = (min(block, shape[0] - start), *shape[1:])
            size = math.prod(here) * dtype.itemsize
            data = bytearray(member.read(size))  # writable, as tensors want it
            if len(data) < size:
                raise EOFError(f"array {name!r} ends early")
            yield np.ndarray(here, dtype, data, order="F" if fortran else "C")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Return shape, dtype and whether the order is Fortran's; leaves `member` at the data."""
    version = npy.read_magic(member)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the .npy format")
    with warnings.catch_warnings():
        # dSprites, for one, was written by Python 2, which takes NumPy a little longer.
        warnings.filterwarnings("ignore", message=".*Python 2.*", category=UserWarning)
        shape, fortran, dtype = _HEADERS[version](member)
    return shape, dtype, fortran and len(shape) > 1


@contextmanager
def _reading(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        raise UserError(f"the data file {path} does not exist: give the path of an .npz.")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    # A damaged file can fail in any of these ways, when it is opened or while it is read.
    except _DAMAGES as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} cannot be read as .npz ({why}): give a whole file that np.savez or "
            "np.savez_compressed wrote."
        ) from None
