"""Principal axes of rows, by way of whichever of their two products is smaller."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NEGLIGIBLE = 1e-12
"""Share of the largest variance below which an axis is rounding."""
_BLOCK = 4096
"""Rows to look at in one step."""


def principal_axes(
    features: NDArray[np.floating],
    n_axes: int | None = None,
    rows: NDArray[np.integer] | None = None,
) -> tuple[Array, Array]:
    """Return the mean, shape (d,), and the leading axes with variance, shape (d, at most n_axes).

    Not by numpy's singular value decomposition, which does not converge on some features of which a
    part was erased (LAPACK's gesdd).

    Args:
        features: Shape (n, d), which is read by blocks: it may lie on the disk.
        n_axes: Most axes; None for all.
        rows: Rows that count, shape (m,); None for all.

    Example:
        >>> mean, axes = principal_axes(np.array([[0.0, 1.0], [4.0, 1.0]]))
        >>> (mean.tolist(), np.abs(axes).tolist())
        ([2.0, 1.0], [[1.0], [0.0]])
    """
    rows = np.arange(len(features)) if rows is None else rows
    d = features.shape[1]
    mean = sum((block.sum(axis=0) for block in _blocks(features, rows)), np.zeros(d)) / len(rows)
    if len(rows) < d:
        centred = np.concatenate([block - mean for block in _blocks(features, rows)])
        product = centred @ centred.T
    else:
        product = np.zeros((d, d))
        for block in _blocks(features, rows):
            product += (block - mean).T @ (block - mean)
    variances, axes = np.linalg.eigh(product)
    kept = np.flatnonzero(variances > _NEGLIGIBLE * variances[-1])[::-1][:n_axes]
    axes = axes[:, kept]
    return mean, centred.T @ axes / np.sqrt(variances[kept]) if len(rows) < d else axes


def project(
    features: NDArray[np.floating], n_axes: int, rows: NDArray[np.integer] | None = None
) -> tuple[Array, Array, Array]:
    """Return the leading principal components, shape (m, at most n_axes), and what gives them.

    Args:
        features: See `principal_axes`, as the rest.
        n_axes: See there.
        rows: See there.

    Returns:
        The components of the rows, the mean and the axes.
    """
    rows = np.arange(len(features)) if rows is None else rows
    mean, axes = principal_axes(features, n_axes, rows)
    components = [(block - mean) @ axes for block in _blocks(features, rows)]
    return np.concatenate(components), mean, axes


def _blocks(features: NDArray[np.floating], rows: NDArray[np.integer]) -> Iterator[Array]:
    for start in range(0, len(rows), _BLOCK):
        yield features[rows[start : start + _BLOCK]].astype(np.float64)
