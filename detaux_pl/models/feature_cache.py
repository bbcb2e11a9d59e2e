"""Features of the images of a data set, computed once and mapped from disk afterwards."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import read_json, replacing, write_json
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.artifacts.space import create_array, is_full, require_space, size_text
from detaux_pl.data.augmentation import Augmentation
from detaux_pl.data.cached_pixels import CachedPixels
from detaux_pl.data.factor_dataset import FactorDataset, as_rows
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.data.pixel_cache import crc_sums, default_cache_dir, file_state, waiting_lock
from detaux_pl.data.preprocessing import as_floats
from detaux_pl.models.pretrained import PretrainedNet

Compute = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Gives the features of some rows, shape (m, F)."""
_BATCH, _BATCH_OF_GPU = 16, 64
"""Images that go through the network at a time: more would not stay in the caches of a CPU, which
takes twice as long for each of 64."""
_BLOCK = 4096
"""Rows to look at in one step."""
_CHEAP = 64_000_000
"""Bytes of features that are compared whenever they are opened."""
_PARTS = ("features.part.npy", "sums.part.npy", "done.npy")
"""What a cache that is not complete holds."""


def open_features(
    net: PretrainedNet,
    dataset: FactorDataset,
    cache_dir: Path | str | None = None,
    batch_size: int | None = None,
    device: torch.device | None = None,
    seen: FactorDataModule | None = None,
) -> NDArray[np.float32]:
    """Map the features of all images of a data set, which are computed where they are missing.

    They are kept by what they follow from: the weights and the preprocessing of the network, its
    precision, and the pixels. Batches are the same rows in whatever process computes them: ranks,
    or commands that run at the same time, share them out among themselves by locks on the file,
    and one that is killed leaves its batch to the others.

    Args:
        net: The network.
        dataset: The images, set up.
        cache_dir: Folder of all caches; None for that of the data set, or `detaux_pl` in the
            user's cache folder.
        batch_size: Images that go through the network at a time; None for 16, or 64 on a GPU.
        device: Where the network is and computes; None for where its weights are.
        seen: The module whose noise, sizes and crops of evaluation the images get; None for images
            as they are.

    Returns:
        float32, shape (N, F), read-only and memory-mapped.

    Raises:
        UserError: If there is no room, or the cache cannot be written or is damaged.
    """
    place = next(net.parameters()).device if device is None else device

    def compute(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        images = (
            as_floats(dataset.images(as_rows(rows)), None) if seen is None else seen.images(rows)
        )
        with torch.inference_mode():
            return net(images.to(place)).cpu().numpy()  # type: ignore[no-any-return]

    if batch_size is None:
        batch_size = _BATCH if place.type == "cpu" else _BATCH_OF_GPU
    cache = _cache_of(net, dataset, cache_dir, place, seen)
    if not cache.complete:
        cache.fill(compute, batch_size, f"features of {len(dataset):,} images")
    return cache.open()


def n_missing_features(
    net: PretrainedNet,
    dataset: FactorDataset,
    cache_dir: Path | str | None,
    device: torch.device,
    seen: FactorDataModule | None = None,
) -> int:
    """Return of how many images `open_features` has features to compute; for arguments see it."""
    return _cache_of(net, dataset, cache_dir, device, seen).n_missing


def _cache_of(
    net: PretrainedNet,
    dataset: FactorDataset,
    cache_dir: Path | str | None,
    place: torch.device,
    seen: FactorDataModule | None,
) -> FeatureCache:
    root = Path(cache_dir) if cache_dir is not None else _cache_root(dataset)
    half = place.type == "cuda"
    of_net = f"{net.model.removeprefix('timm/')}-{net.digest[:12]}{'-half' * half}"
    folder = root / "features" / of_net / _key_of_pixels(dataset, seen)[:16]
    return FeatureCache(folder, (len(dataset), net.n_features))


class FeatureCache:
    """float32 vectors in one memory-mapped file, which killed processes leave half full.

    The folder holds `features.npy` when it is complete, and `sums.npy`, the CRC-32 of each vector.
    Until then it holds `features.part.npy`, `sums.part.npy` and `done.npy`, which says what rows
    of them are filled. Vectors are compared with their sums when the cache is opened, if that
    takes but a moment or the file was written to since.

    Args:
        folder: Folder of the cache; its name is the key of what it holds.
        shape: Number of rows and of features.
    """

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        self.folder = folder
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def complete(self) -> bool:
        """Whether all rows are filled."""
        return (self.folder / "features.npy").is_file()

    @property
    def n_missing(self) -> int:
        """Number of rows that are not filled."""
        if self.complete:
            return 0
        done = self.folder / _PARTS[2]
        known = np.load(done, mmap_mode="r").sum() if done.is_file() else 0
        return len(self) - int(known)

    @property
    def n_bytes(self) -> int:
        """Size of all features."""
        return 4 * self.shape[0] * self.shape[1]

    def open(self) -> NDArray[np.float32]:
        """Map the features, shape (N, F), read-only.

        Raises:
            UserError: If the file is damaged.
        """
        path = self.folder / "features.npy"
        try:
            features = np.load(path, mmap_mode="r", allow_pickle=False)
            sums = np.load(self.folder / "sums.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise self._damaged("it cannot be read") from None
        if features.shape != self.shape or features.dtype != np.float32 or len(sums) != len(self):
            raise self._damaged("it holds something else")
        state = file_state(path)
        if self.n_bytes <= _CHEAP or state != self._checked():
            for start in range(0, len(self), _BLOCK):
                rows = slice(start, start + _BLOCK)
                bad = np.flatnonzero(crc_sums(features[rows]) != sums[rows])
                if bad.size:
                    raise self._damaged(f"row {start + bad[0]} is not what was written")
        if state != self._checked():
            with suppress(OSError):  # it would be compared again
                write_json(self.folder / "checked.json", state)
        return features  # type: ignore[no-any-return]

    def fill(self, compute: Compute, batch_size: int, title: str) -> None:
        """Compute the rows that are still empty, together with all who do so at the same time.

        Args:
            compute: Gives the features of some rows.
            batch_size: Most rows to compute at a time.
            title: What the progress bar says.

        Raises:
            UserError: If the disk is full or cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with waiting_lock(self.folder / ".lock"):
                if self.complete:
                    return
                self._begin()
                done = np.load(self.folder / _PARTS[2], mmap_mode="r+")
                sums = np.load(self.folder / _PARTS[1], mmap_mode="r+")
                part = (self.folder / _PARTS[0]).open("r+b")
            with part:
                self._share(compute, batch_size, title, part, sums, done)
            with waiting_lock(self.folder / ".lock"):
                self._finish()
        except OSError as error:
            if is_full(error):
                for name in _PARTS:
                    with suppress(OSError):
                        (self.folder / name).unlink(missing_ok=True)
            raise UserError(
                f"the cache of features {self.folder} cannot be filled "
                f"({error.strerror or error}), it needs {size_text(self.n_bytes)}: give another "
                "cache_dir or free some space."
            ) from None

    def _begin(self) -> None:
        """Reserve what is needed."""
        part, sums, done = (self.folder / name for name in _PARTS)
        if done.is_file():
            return
        part.unlink(missing_ok=True)
        what = f"the features of {self.shape[0]:,} images"
        require_space(self.folder, self.n_bytes, what, "give another cache_dir")
        create_array(part, np.float32, self.shape)
        create_array(sums, np.uint32, self.shape[:1])
        # Last and at once: its presence says that the rest is whole.
        with replacing(done) as temporary:
            np.save(temporary, np.zeros(self.shape[0], np.uint8), allow_pickle=False)

    def _share(
        self,
        compute: Compute,
        batch_size: int,
        title: str,
        part: BinaryIO,
        sums: NDArray[np.uint32],
        done: NDArray[np.uint8],
    ) -> None:
        """Take batches that nobody is at, then wait for those of the others."""
        offset = np.load(self.folder / _PARTS[0], mmap_mode="r").offset
        starts = [batch_size * i for i in range(ceil(len(done) / batch_size))]
        known = int(done.sum())
        with (
            (self.folder / ".claims").open("ab") as claims,
            progress_bar(title, len(done), known) as advance,
        ):
            for waiting in (False, True):
                for start in starts:
                    rows = np.arange(start, min(start + batch_size, len(done)))
                    if done[rows].all():
                        continue
                    with _claim(claims, start, len(rows), waiting) as mine:
                        if mine and not done[rows].all():
                            values = np.ascontiguousarray(compute(rows), dtype=np.float32)
                            part.seek(offset + start * values[0].nbytes)
                            part.write(values.data)
                            part.flush()
                            sums[rows] = crc_sums(values)
                            done[rows] = 1
                    advance(int(done.sum()) - known)
                    known = int(done.sum())

    def _finish(self) -> None:
        """Give what is full its name, unless another one did."""
        part, sums, done = (self.folder / name for name in _PARTS)
        if self.complete:
            return
        for path in (part, sums):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        write_json(self.folder / "checked.json", file_state(part))
        sums.rename(self.folder / "sums.npy")
        part.rename(self.folder / "features.npy")
        done.unlink()

    def _checked(self) -> Any:
        """State of the file that was compared last."""
        with suppress(ArtifactError):
            return read_json(self.folder / "checked.json")
        return None

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"the cache {self.folder / 'features.npy'} is damaged ({what}): delete its folder and "
            "run again."
        )


@contextmanager
def _claim(file: BinaryIO, start: int, length: int, waiting: bool) -> Iterator[bool]:
    """Hold a range of bytes of a file, by which processes tell each other what they are at.

    The kernel lets go of it when the process ends, however it does.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if waiting else fcntl.LOCK_NB), length, start)
    except (BlockingIOError, PermissionError):
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, length, start)


def _cache_root(dataset: FactorDataset) -> Path:
    return dataset.cache_root if isinstance(dataset, CachedPixels) else default_cache_dir()


def _key_of_pixels(dataset: FactorDataset, seen: FactorDataModule | None) -> str:
    """Return a digest of what the pixels of all rows follow from."""
    whole = sha256(json.dumps([type(dataset).__name__, dataset.image_shape]).encode())
    whole.update(np.ascontiguousarray(dataset.ids).tobytes())
    if isinstance(dataset, CachedPixels):
        folder = dataset.cache.folder  # whose name is a digest of the pixels
        whole.update(f"{folder.parent.name}/{folder.name}".encode())
    else:  # made here, and settings may not tell how: the class may be the user's own
        for start in range(0, len(dataset), _BLOCK // 16):
            rows = np.arange(start, min(start + _BLOCK // 16, len(dataset)))
            whole.update(np.ascontiguousarray(dataset.images(as_rows(rows)).numpy()).data)
    if seen is not None:
        kept = seen.augmentation  # most leave images as they are in evaluation
        if kept is not None and type(kept).clean is Augmentation.clean:
            kept = None
        parts = [seen.image_size, _settings(seen.noise), _settings(kept)]
        whole.update(json.dumps(parts, default=repr).encode())
    return whole.hexdigest()


def _settings(part: object) -> Any:
    return None if part is None else [type(part).__qualname__, vars(part)]
