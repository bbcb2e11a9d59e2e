"""Complete factorials that come as arrays in a few files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detaux_pl.artifacts.files import as_path
from detaux_pl.data.cached_arrays import CachedArrays
from detaux_pl.data.factorial import Factorial


class CachedFactorial(CachedArrays, Factorial):
    """A complete factorial whose images are mapped from a cache.

    The cache holds the images of all ids, whatever number of them is drawn, so that every
    drawing finds it again. A subclass gives `files` and `read_blocks`, in the order of the ids.

    Raises:
        ValueError: If an argument is outside its range.
    """

    published = True
    ids: NDArray[np.int64]

    def __init__(
        self,
        principal: str,
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        seed: int = 0,
        cache_dir: Path | str | None = None,
    ) -> None:
        # By name: the constructor of CachedPixels, next in line, knows of no numbers.
        Factorial.__init__(self, principal, n_train, n_val, n_test, seed)
        self.cache_dir = as_path(cache_dir)
        self._all: Tensor | None = None

    def fingerprint(self) -> str:
        """Return a digest of the files: variants of a data set may differ in nothing else."""
        return self.content_key()

    def n_images(self) -> int:
        """Return the number of ids, drawn or not."""
        return self.n_combinations

    def setup(self) -> None:
        """Assign the splits and map the images, which are made first where they are not cached."""
        Factorial.setup(self)
        if self._all is None:
            self.prepare()
        self._map()

    def images(self, rows: Tensor) -> Tensor:
        """Return the images of some rows, uint8, shape (n, C, H, W), on the CPU."""
        if self._all is None:
            raise RuntimeError(f"{type(self).__name__} has no images yet: call setup first.")
        return self._all.index_select(0, torch.from_numpy(self.ids[rows.numpy()]))

    def _map(self) -> None:
        if self._all is None:
            self._all = self.cache.open()
        self.pixels = self._all if len(self.ids) == len(self._all) else None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_all": None, "_mapped": self._all is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        mapped = state.pop("_mapped")
        self.__dict__.update(state)
        if mapped:
            self._map()
