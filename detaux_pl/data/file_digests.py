"""SHA-256 of many files, remembered as long as their size and date stay."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import replacing

_WORKERS = 4
_FILES = 64
"""Files that a thread reads at a time."""
_BLOCK = 1 << 18
"""Bytes to read at a time."""


def file_digests(paths: Sequence[Path], memory: Path) -> NDArray[np.uint8]:
    """Return the SHA-256 digests of files, shape (n, 32); zeros for one that cannot be read.

    Args:
        paths: The files.
        memory: File that remembers digests; of a file whose size and date of change are
            those remembered, the digest is taken from there.

    Raises:
        UserError: If `memory` cannot be written.
    """
    names = np.array([str(path) for path in paths], dtype=np.str_)
    stats = np.array([_stat(path) for path in paths], dtype=np.int64).reshape(-1, 2)
    digests = np.zeros((len(paths), 32), dtype=np.uint8)
    todo = np.ones(len(paths), dtype=np.bool_)
    known = _remembered(memory)
    if known is not None and len(known[0]):
        order = np.argsort(known[0])
        place = order[np.minimum(np.searchsorted(known[0], names, sorter=order), len(order) - 1)]
        same = (known[0][place] == names) & (known[1][place] == stats).all(axis=1)
        digests[same] = known[2][place[same]]
        todo = ~same
    rows = np.flatnonzero(todo)
    if rows.size:
        # Threads, for slow disks; several files at a time, for the threads cost more than a file.
        parts = np.array_split(rows, -(-len(rows) // _FILES))
        with ThreadPoolExecutor(_WORKERS) as pool:
            for part, fresh in zip(
                parts,
                pool.map(lambda part: [_digest(paths[row]) for row in part.tolist()], parts),
                strict=True,
            ):
                digests[part] = np.frombuffer(b"".join(fresh), dtype=np.uint8).reshape(-1, 32)
        _remember(memory, names, stats, digests)
    return digests


def _remember(
    memory: Path,
    names: NDArray[np.str_],
    stats: NDArray[np.int64],
    digests: NDArray[np.uint8],
) -> None:
    read = digests.any(axis=1)
    try:
        with replacing(memory) as temporary:
            np.savez(temporary, names=names[read], stats=stats[read], digests=digests[read])
    except OSError as error:
        raise UserError(
            f"{memory} cannot be written ({error.strerror or error}): give another cache_dir or "
            "free some space."
        ) from None


def _remembered(
    memory: Path,
) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.uint8]] | None:
    try:
        with memory.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            return saved["names"], saved["stats"], saved["digests"]
    # Absent or damaged: all is read again.
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            # hashlib's own loop fills a buffer first, which takes longer than a small file.
            digest = hashlib.sha256()
            while part := file.read(_BLOCK):
                digest.update(part)
            return digest.digest()
    except OSError:
        return bytes(32)
