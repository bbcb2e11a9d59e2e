"""Data sets whose images are decoded or resized once and then mapped from disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import as_path, read_json, sha256_json, write_json
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.file_digests import file_digests
from detaux_pl.data.pixel_cache import PixelCache, PixelWriter, default_cache_dir
from detaux_pl.data.value_range import DeepPixels, Levels, Range, find_levels


class UnreadableImagesError(UserError):
    """Some images cannot be made; the others are in the cache."""


class CachedPixels(FactorDataset):
    """A data set that makes its images once and maps them from a cache afterwards.

    A subclass gives `recipe`, `content_key` and `render`, and fills `ids`, `splits` and
    `factors` in `describe` or in `setup`, which it ends by calling this class's.

    Args:
        principal: Name of the principal factor.
        cache_dir: Folder of the cached images; None for `detaux_pl` in the user's cache folder.
    """

    cached: bool = True
    """Whether there is a cache; a subclass may leave it to the user."""
    may_be_deep: bool = False
    """Whether images may have more than 8 bits: a subclass where they may gives `survey`."""
    value_range: Range | None = None
    """What becomes 0 and 255 of pixels of more than 8 bits, as the user gives it."""

    def __init__(self, principal: str, cache_dir: Path | str | None) -> None:
        super().__init__(principal)
        self.cache_dir = as_path(cache_dir)

    @property
    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """How images are made of what is read: all that tells pixels apart beside the content."""

    @abstractmethod
    def content_key(self) -> str:
        """Return a digest of what is read, in the order of the rows."""

    @abstractmethod
    def render(self, rows: NDArray[np.int64], write: PixelWriter) -> Iterator[NDArray[np.int64]]:
        """Make and write the images of some ascending rows; give those that are written.

        Rows that cannot be made are left out.
        """

    def n_images(self) -> int:
        """Return the number of images in the cache, known after `describe`."""
        return len(self.ids)

    def incomplete(self) -> UnreadableImagesError:
        """Return the error that says which images could not be made."""
        return UnreadableImagesError(f"{type(self).__name__} has images that cannot be read.")

    def survey(self) -> DeepPixels:
        """Read what images of more than 8 bits hold."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its images hold.")

    @property
    def origin(self) -> str:
        """What the images are read from, for messages."""
        return type(self).__name__

    @cached_property
    def deep(self) -> DeepPixels:
        """What `survey` tells, which is remembered as long as the content stays."""
        if not self.may_be_deep:
            return DeepPixels()
        made = {"dataset": type(self).__name__, **self.recipe, "content": self.content_key()}
        memory = self.cache_root / "levels" / f"{sha256_json(made)[:16]}.json"
        with suppress(ArtifactError, OSError, KeyError, TypeError, ValueError, IndexError):
            return DeepPixels.from_json(read_json(memory))
        deep = self.survey()
        with suppress(OSError):  # it would be read again
            write_json(memory, deep.as_json())
        return deep

    @property
    def levels(self) -> Levels:
        """How pixels of more than 8 bits become bytes, the same for all images.

        Raises:
            UserError: If the images do not tell their range, or have no use for the given one.
        """
        return find_levels(self.deep, self.value_range, self.origin)

    def content(self) -> NDArray[np.uint8] | None:
        """Return the digest of what each image is made of, shape (N, 32), if it is known."""
        return None

    def fingerprint(self) -> str | None:
        """Return a digest of the content, the ids, the splits and the factors."""
        whole = sha256(self.content_key().encode())
        if scaled := self._scaled:
            whole.update(sha256_json(scaled).encode())
        for array in (self.ids, self.splits, self.factors):
            whole.update(np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()

    def digests_of(self, paths: Sequence[Path], place: str) -> NDArray[np.uint8]:
        """Return the SHA-256 digests of files, shape (n, 32), remembered under a place."""
        name = sha256(place.encode()).hexdigest()[:16]
        return file_digests(paths, self.cache_root / "digests" / f"{name}.npz")

    @property
    def cache_root(self) -> Path:
        """The folder of all caches."""
        return self.cache_dir if self.cache_dir is not None else default_cache_dir()

    @property
    def _scaled(self) -> dict[str, Any]:
        """The levels, for keys: nothing where the bytes are those that there were without."""
        levels = self.levels
        return {} if levels.as_before else {"levels": [*levels.integers, *levels.floats]}

    @property
    def cache(self) -> PixelCache:
        """Where the images are kept; needs the content to be read for its key."""
        made = sha256_json({"dataset": type(self).__name__, **self.recipe, **self._scaled})[:12]
        folder = self.cache_root / f"{type(self).__name__.lower()}-{made}" / self.content_key()[:16]
        return PixelCache(folder, (self.n_images(), *self.image_shape))

    def prepare(self) -> None:
        """Fill the cache, unless it is full.

        Raises:
            UnreadableImagesError: If an image cannot be made.
            UserError: If the cache cannot be written.
        """
        self.describe()
        cache = self.cache
        if not cache.complete:
            cache.fill(self.render, f"read {self.n_images():,} images", self.content())
        if not cache.complete:
            raise self.incomplete()

    def setup(self) -> None:
        """Map the images, which are made first where they are not cached."""
        if self.pixels is None:
            self.prepare()
            self.pixels = self.cache.open()

    def __getstate__(self) -> dict[str, Any]:
        # A worker process that is not forked maps the file itself.
        return {**self.__dict__, "pixels": None, "_mapped": self.pixels is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        mapped = state.pop("_mapped")
        self.__dict__.update(state)
        if mapped:
            self.pixels = self.cache.open()
