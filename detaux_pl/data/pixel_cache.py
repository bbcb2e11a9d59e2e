"""Images kept on disk as one memory-mapped array, filled once."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import replacing
from detaux_pl.artifacts.progress import progress_bar

Render = Callable[[NDArray[np.int64], "PixelWriter"], Iterator[NDArray[np.int64]]]
"""Makes the images of some ascending rows, writes them, and gives the rows that are written."""

_BLOCK = 256
"""Most images to copy at a time."""


class PixelCache:
    """uint8 images in one memory-mapped file, which a killed process leaves half full.

    The folder holds `pixels.npy` when it is complete. Until then it holds `pixels.part.npy` and
    `done.npy`, which says what rows of it are filled. A second process that wants to fill it
    waits for the first.

    Args:
        folder: Folder of the cache; its name is the key of what it holds. Folders beside it, with
            images made in the same way, lend what they have of the same content.
        shape: Number of images, channels, height and width.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int, int]) -> None:
        self.folder = folder
        self.shape = shape

    @property
    def complete(self) -> bool:
        """Whether all rows are filled."""
        return (self.folder / "pixels.npy").is_file()

    @property
    def n_bytes(self) -> int:
        """Size of all images."""
        return int(np.prod(self.shape))

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
        with warnings.catch_warnings():
            # A private writable mapping would count as memory in use.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            return torch.from_numpy(pixels)

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
            with _waiting_lock(self.folder / ".lock"):
                if not self.complete:
                    self._fill(render, title, content)
        except OSError as error:
            raise UserError(
                f"the image cache {self.folder} cannot be filled ({error.strerror or error}), it "
                f"needs {self.n_bytes / 1e9:.1f} GB: give another cache_dir or free some space."
            ) from None

    def _fill(
        self,
        render: Render,
        title: str,
        content: NDArray[np.uint8] | None,
    ) -> None:
        part, done_path = self.folder / "pixels.part.npy", self.folder / "done.npy"
        if not done_path.is_file():
            _create(part, self.shape)
            # Last and at once: its presence says that the rest is whole.
            with replacing(done_path) as temporary:
                np.save(temporary, np.zeros(self.shape[0], np.uint8), allow_pickle=False)
        pixels = np.load(part, mmap_mode="r+")
        done = np.load(done_path, mmap_mode="r+")
        if content is not None:
            with replacing(self.folder / "content.npy") as temporary:
                np.save(temporary, content, allow_pickle=False)
            self._adopt(content, pixels, done)
        todo = np.flatnonzero(done == 0)
        with progress_bar(title, len(done), len(done) - len(todo)) as advance:
            for rows in render(todo, PixelWriter(part)) if todo.size else ():
                done[rows] = 1
                advance(len(rows))
        if done.all():
            pixels.flush()
            part.rename(self.folder / "pixels.npy")
            done_path.unlink()

    def _adopt(
        self, content: NDArray[np.uint8], pixels: NDArray[np.uint8], done: NDArray[np.uint8]
    ) -> None:
        """Copy what folders beside this one hold of the same content."""
        for other in sorted(self.folder.parent.glob("*/content.npy")):
            folder = other.parent
            if folder == self.folder:
                continue
            try:
                theirs, source, have = _open_folder(folder)
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
                pixels[todo[block]] = source[match[block]]
                done[todo[block]] = 1


class PixelWriter:
    """Writes images to rows of an `.npy` file, from any process.

    Written to the file they take half the time that they take in a mapping of it, which the
    system fills page by page.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = np.load(path, mmap_mode="r").offset

    def __call__(self, rows: NDArray[np.int64], images: NDArray[np.uint8]) -> None:
        """Write the images, shape (m, C, H, W), of rows, shape (m,)."""
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
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Return the digests, the images and the rows of them that are filled, of a cache."""
    content = np.load(folder / "content.npy", allow_pickle=False)
    if (folder / "pixels.npy").is_file():
        return content, np.load(folder / "pixels.npy", mmap_mode="r"), np.arange(len(content))
    filled = np.flatnonzero(np.load(folder / "done.npy", allow_pickle=False))
    return content, np.load(folder / "pixels.part.npy", mmap_mode="r"), filled


def default_cache_dir() -> Path:
    """Return `detaux_pl` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "detaux_pl"


def _create(path: Path, shape: tuple[int, ...]) -> None:
    """Create an array of zeros and reserve its space: a full disk would kill a later write."""
    array = open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    array.flush()
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)


def _as_keys(content: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """View digests, shape (n, 32), as sortable items; the last byte keeps trailing zeros."""
    padded = np.concatenate([content, np.ones((len(content), 1), np.uint8)], axis=1)
    return padded.view(f"S{padded.shape[1]}")[:, 0]


@contextmanager
def _waiting_lock(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
