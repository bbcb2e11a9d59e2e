"""Space on the disk: asked for before the first byte, given back where it did not suffice."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike

from detaux_pl.artifacts.errors import UserError

_MARGIN = 32_000_000
"""Most bytes that are left to others, beside a fiftieth of what is asked for."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def require_space(folder: Path, n_bytes: int, what: str, remedy: str) -> None:
    """Refuse what the disk has no room for.

    Args:
        folder: Where it will be; it need not exist yet.
        n_bytes: How much it is.
        what: What it is, for the message.
        remedy: What to do beside freeing some space.

    Raises:
        UserError: If less is free than that and a margin.
    """
    place = folder.absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < n_bytes + n_bytes // 50 + min(n_bytes, _MARGIN):
        beside = ", and some for others," if free >= n_bytes else ","
        raise UserError(
            f"there is no room for {what}: {size_text(n_bytes)} are needed{beside} but "
            f"{size_text(free)} are free in {folder}: free some space, or {remedy}."
        )


def create_array(path: Path, dtype: DTypeLike, shape: Sequence[int]) -> np.memmap[Any, Any]:
    """Create an array of zeros on disk and reserve its space: a full disk would kill a later write.

    Raises:
        OSError: If it cannot be; nothing is left of it then.
    """
    try:
        array: np.memmap[Any, Any] = open_memmap(path, "w+", dtype, tuple(shape))
        array.flush()
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as handle:
                try:
                    os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
                except OSError as error:
                    if error.errno not in _UNSUPPORTED:
                        raise
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    return array


def is_full(error: OSError) -> bool:
    """Whether an error says that there is no space left, in a worker process too."""
    return error.errno in _FULL or any(os.strerror(code) in str(error) for code in _FULL)


def size_text(n_bytes: int) -> str:
    """Return a number of bytes as text: 4.2 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes} bytes"
