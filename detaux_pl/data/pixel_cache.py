"""Images kept on disk as one memory-mapped array, filled once."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import read_json, replacing, write_json
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.artifacts.space import create_array, is_full, require_space, size_text

Render = Callable[[NDArray[np.int64], "PixelWriter"], Iterator[NDArray[np.int64]]]
"""Makes the images of some ascending rows, writes them, and gives the rows that are written."""

_BLOCK = 256
"""Most images to copy, or compare, at a time."""
_CHEAP = 64_000_000
"""Bytes of images that are compared whenever they are opened, which takes a tenth of a second."""
_WORKERS = 4
_PARTS = ("pixels.part.npy", "sums.part.npy", "done.npy")
"""What a cache that is not complete holds."""


class PixelCache:
    """uint8 images in one memory-mapped file, which a killed process leaves half full.

    The folder holds `pixels.npy` when it is complete, and `sums.npy`, the CRC-32 of each image.
    Until then it holds `pixels.part.npy`, `sums.part.npy` and `done.npy`, which says what rows of
    them are filled. A second process that wants to fill it waits for the first.

    Images are compared with their sums when the cache is opened, if that takes but a moment or the
    file was written to since; `verify` compares them whenever it is asked. Caches of before there
    were sums have none and are taken as they are.

    Args:
        folder: Folder of the cache; its name is the key of what it holds. Folders beside it, with
            images made in the same way, lend what they have of the same content.
        shape: Number of images, channels, height and width.
    """

    def __init__(self, folder: Path | str, shape: tuple[int, int, int, int]) -> None:
        self.folder = Path(folder)
        self.shape = shape

    @property
    def complete(self) -> bool:
        """Whether all rows are filled."""
        return (self.folder / "pixels.npy").is_file()

    @property
    def n_bytes(self) -> int:
        """Size of all images."""
        return prod(self.shape)

    def open(self) -> Tensor:
        """Map the images, uint8, shape (N, C, H, W); they are not to be written to.

        Raises:
            UserError: If the file is damaged.
        """
        path = self.folder / "pixels.npy"
        try:
            pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            pixels = np.empty(0)
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            raise UserError(f"the cache {path} is damaged: delete it and run again.")
        if self.n_bytes <= _CHEAP or file_state(path) != self._checked():
            self.verify()
        with warnings.catch_warnings():
            # A private writable mapping would count as memory in use.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            return torch.from_numpy(pixels)

    def verify(self) -> bool:
        """Compare every image with its sum.

        Returns:
            Whether there are sums to compare with.

        Raises:
            UserError: If an image is not what was written.
        """
        path, sums_path = self.folder / "pixels.npy", self.folder / "sums.npy"
        if not sums_path.is_file():
            return False
        state = file_state(path)
        try:
            pixels = np.load(path, mmap_mode="r", allow_pickle=False)
            sums = np.load(sums_path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            sums = np.empty(0)
        if sums.shape != self.shape[:1]:
            raise UserError(f"the cache {path} is damaged: delete it and run again.")
        blocks = np.array_split(np.arange(len(sums)), -(-len(sums) // _BLOCK) or 1)
        with ThreadPoolExecutor(_WORKERS) as pool:
            parts = pool.map(lambda rows: crc_sums(pixels[rows[0] : rows[-1] + 1]), blocks)
            bad = np.flatnonzero(np.concatenate([*parts]) != sums)
        if bad.size:
            raise UserError(
                f"the cache {path} is damaged ({bad.size:,} of {len(sums):,} images are not what "
                f"was written, the first in row {bad[0]}): delete it and run again."
            )
        if state != self._checked():
            with suppress(OSError):  # it would be compared again
                write_json(self.folder / "checked.json", state)
        return True

    def _checked(self) -> Any:
        """The state that was compared last; that of now where there are no sums."""
        if not (self.folder / "sums.npy").is_file():
            return file_state(self.folder / "pixels.npy")
        with suppress(ArtifactError):
            return read_json(self.folder / "checked.json")
        return None

    def fill(
        self,
        render: Render,
        title: str,
        content: NDArray[np.uint8] | None = None,
    ) -> None:
        """Fill the rows that are still empty; what `render` leaves out stays so.

        Args:
            render: Writes the images of the wanted rows, in any order.
            title: What the progress bar says.
            content: Digest of what each image is made of, shape (N, 32): rows of the folders
                beside this one that were made of the same are copied.

        Raises:
            UserError: If the disk is full or cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with waiting_lock(self.folder / ".lock"):
                if not self.complete:
                    self._fill(render, title, content)
        except OSError as error:
            if is_full(error):
                self._remove()
            raise UserError(
                f"the image cache {self.folder} cannot be filled ({error.strerror or error}), it "
                f"needs {size_text(self.n_bytes)}: give another cache_dir or free some space."
            ) from None

    def _remove(self) -> None:
        """Give back the space of what is not finished."""
        for name in (*_PARTS, "content.npy"):
            with suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)

    def _fill(
        self,
        render: Render,
        title: str,
        content: NDArray[np.uint8] | None,
    ) -> None:
        part, sums_path, done_path = (self.folder / name for name in _PARTS)
        if not done_path.is_file():
            part.unlink(missing_ok=True)
            remedy = "give another cache_dir or a smaller image_size"
            require_space(
                self.folder, self.n_bytes, f"the image cache of {self.shape[0]:,} images", remedy
            )
            create_array(part, np.uint8, self.shape)
            create_array(sums_path, np.uint32, self.shape[:1])
            # Last and at once: its presence says that the rest is whole.
            with replacing(done_path) as temporary:
                np.save(temporary, np.zeros(self.shape[0], np.uint8), allow_pickle=False)
        pixels = np.load(part, mmap_mode="r+")
        done = np.load(done_path, mmap_mode="r+")
        # One that was begun before there were sums is finished without.
        sums = np.load(sums_path, mmap_mode="r+") if sums_path.is_file() else None
        if content is not None:
            with replacing(self.folder / "content.npy") as temporary:
                np.save(temporary, content, allow_pickle=False)
            self._adopt(content, pixels, done, sums)
        todo = np.flatnonzero(done == 0)
        with progress_bar(title, len(done), len(done) - len(todo)) as advance:
            for rows in render(todo, PixelWriter(part)) if todo.size else ():
                done[rows] = 1
                advance(len(rows))
        if done.all():
            pixels.flush()
            if sums is not None:
                sums.flush()
                write_json(self.folder / "checked.json", file_state(part))
                sums_path.rename(self.folder / "sums.npy")
            part.rename(self.folder / "pixels.npy")
            done_path.unlink()

    def _adopt(
        self,
        content: NDArray[np.uint8],
        pixels: NDArray[np.uint8],
        done: NDArray[np.uint8],
        sums: NDArray[np.uint32] | None,
    ) -> None:
        """Copy what folders beside this one hold of the same content."""
        for other in sorted(self.folder.parent.glob("*/content.npy")):
            folder = other.parent
            if folder == self.folder:
                continue
            try:
                theirs, source, known_sums, have = _open_folder(folder)
            except (OSError, ValueError, EOFError):
                continue  # it is damaged, or just being renamed: nothing is lost but some time
            have = have[theirs[have].any(axis=1)]  # zeros say that a file could not be read
            if source.shape[1:] != self.shape[1:] or not have.size:
                continue
            known = _as_keys(theirs[have])
            order = np.argsort(known)
            todo = np.flatnonzero(done == 0)
            place = np.searchsorted(known, _as_keys(content[todo]), sorter=order)
            match = have[order[np.minimum(place, len(have) - 1)]]
            same = (theirs[match] == content[todo]).all(axis=1)
            for block in np.array_split(np.flatnonzero(same), -(-int(same.sum()) // _BLOCK) or 1):
                images = source[match[block]]
                own = crc_sums(images)
                # What is damaged is made anew.
                whole = own == (own if known_sums is None else known_sums[match[block]])
                rows = todo[block][whole]
                pixels[rows] = images[whole]
                if sums is not None:
                    sums[rows] = own[whole]
                done[rows] = 1


class PixelWriter:
    """Writes images to rows of `pixels.part.npy`, and their sums, from any process.

    Written to the file they take half the time that they take in a mapping of it, which the
    system fills page by page.

    Args:
        path: The file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.offset = np.load(path, mmap_mode="r").offset
        self.sums = self.path.with_name(_PARTS[1])
        self.sums_offset = np.load(self.sums, mmap_mode="r").offset if self.sums.is_file() else None

    def __call__(self, rows: NDArray[np.int64], images: NDArray[np.uint8]) -> None:
        """Write the images, shape (m, C, H, W), of rows, shape (m,)."""
        if self.sums_offset is not None:
            sums = np.load(self.sums, mmap_mode="r+")
            sums[rows] = crc_sums(images)
        with self.path.open("r+b") as file:
            runs = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
            for start, end in pairwise([*runs.tolist(), len(rows)]):
                block = np.ascontiguousarray(images[start:end])
                place = self.offset + int(rows[start]) * images[0].nbytes
                file.seek(place)
                file.write(block.data)
                file.flush()
                if hasattr(os, "posix_fadvise"):
                    # The disk begins at once; left to the end, all wait for it. Pages that are
                    # still to be written stay in memory.
                    os.posix_fadvise(file.fileno(), place, block.nbytes, os.POSIX_FADV_DONTNEED)


def _open_folder(
    folder: Path,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint32] | None, NDArray[np.int64]]:
    """Return the digests, the images, their sums and the rows that are filled, of a cache."""
    content = np.load(folder / "content.npy", allow_pickle=False)
    if (folder / "pixels.npy").is_file():
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        return content, pixels, _load_sums(folder / "sums.npy"), np.arange(len(content))
    filled = np.flatnonzero(np.load(folder / "done.npy", allow_pickle=False))
    pixels = np.load(folder / _PARTS[0], mmap_mode="r")
    return content, pixels, _load_sums(folder / _PARTS[1]), filled


def _load_sums(path: Path) -> NDArray[np.uint32] | None:
    return np.load(path, allow_pickle=False) if path.is_file() else None


def crc_sums(values: NDArray[np.generic]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each row of an array, shape (n,)."""
    whole = np.ascontiguousarray(values)
    return np.array([crc32(row) for row in whole], dtype=np.uint32)


def file_state(path: Path) -> list[int]:
    """Return size and date of change of a file, which tell whether it was written to."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def default_cache_dir() -> Path:
    """Return `detaux_pl` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "detaux_pl"


def _as_keys(content: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """View digests, shape (n, 32), as sortable items; the last byte keeps trailing zeros."""
    padded = np.concatenate([content, np.ones((len(content), 1), np.uint8)], axis=1)
    return padded.view(f"S{padded.shape[1]}")[:, 0]


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a file's lock, after whoever has it."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
