"""Principal axes of rows, by way of whichever of their two products is smaller."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NEGLIGIBLE = 1e-12
"""Share of the largest variance below which an axis is rounding."""


def principal_axes(
    features: NDArray[np.floating], n_axes: int | None = None
) -> tuple[Array, Array]:
    """Return the mean, shape (d,), and the leading axes with variance, shape (d, at most n_axes).

    Not by numpy's singular value decomposition, which does not converge on some features of which a
    part was erased (LAPACK's gesdd).

    Example:
        >>> mean, axes = principal_axes(np.array([[0.0, 1.0], [4.0, 1.0]]))
        >>> (mean.tolist(), np.abs(axes).tolist())
        ([2.0, 1.0], [[1.0], [0.0]])
    """
    values = np.asarray(features, dtype=np.float64)
    mean = values.mean(axis=0)
    centred = values - mean
    wide = len(values) < values.shape[1]
    variances, axes = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = np.flatnonzero(variances > _NEGLIGIBLE * variances[-1])[::-1][:n_axes]
    axes = axes[:, kept]
    return mean, centred.T @ axes / np.sqrt(variances[kept]) if wide else axes


def project(features: NDArray[np.floating], n_axes: int) -> Array:
    """Return the leading principal components, shape (n, at most n_axes)."""
    mean, axes = principal_axes(features, n_axes)
    projected: Array = (features - mean) @ axes
    return projected
