"""Codes of one subspace as points, read by blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 22
"""Numbers to hold at a time while reducing codes: 32 MB."""
_WHOLE = 1 << 25
"""Reduced numbers that are kept, at most: 256 MB. More are reduced again where they are read."""
_ROWS = 1 << 16
"""Points to hold at a time while they are assigned."""


def blocks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut rows into pieces whose points may be held at a time."""
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


class Points:
    """Points (n, d) in double precision of codes that may lie on the disk.

    Args:
        values: Codes of one subspace, shape (n, D).
        fitted: Rows that the reduction is fitted on.
        pca: Principal components to reduce codes of more dimensions to; None for never.
        seed: Seed of the reduction.
    """

    def __init__(
        self,
        values: NDArray[np.float32],
        fitted: NDArray[np.int64],
        pca: int | None = None,
        seed: int = 0,
    ) -> None:
        self._values = values
        self._reduce: Any = None
        self._whole: NDArray[np.float64] | None = None
        if pca is None or pca >= values.shape[1]:
            return
        from sklearn.decomposition import PCA  # a second to import, and few need it

        # Codes that need this may fill the memory: there is one copy of those that are fitted, in
        # float32, which is precise enough once it is centred.
        seen = values[fitted]
        self._mean = seen.mean(axis=0, dtype=np.float64)
        seen -= self._mean
        self._reduce = PCA(min(pca, len(fitted)), copy=False, random_state=seed).fit(seen)
        if len(values) * self._reduce.n_components_ <= _WHOLE:
            self._whole = self._read(np.arange(len(values)))

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return some points, shape (m, d)."""
        return self._read(rows) if self._whole is None else self._whole[rows]

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        if self._reduce is None:
            return self._values[rows].astype(np.float64)
        reduced = np.empty((len(rows), self._reduce.n_components_))
        step = max(1, _CHUNK // self._values.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            reduced[part] = self._reduce.transform(self._values[rows[part]] - self._mean)
        return reduced
