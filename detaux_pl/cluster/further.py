"""Codes without a task that was found in them, so that another one can be looked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.models.principal_axes import principal_axes

_NEGLIGIBLE = 1e-8
"""Share of the variance of a subspace below which what is left of it is rounding."""


def erase_task(
    codes: Codes, task: AuxiliaryLabels, fitted: NDArray[np.int64], pca: int | None = None
) -> Codes:
    """Erase a discovered task from the codes of every subspace but the principal one.

    In each by itself, by `fit_erasure` with the shrinkage of `optimal_shrinkage`: no linear
    classifier of the clusters on the rest of a subspace beats a constant, on the samples that it
    was fitted to. Where nothing else was in a subspace, all its codes are alike afterwards.

    Args:
        codes: The codes.
        task: What was found in them.
        fitted: Rows of the samples to fit to; those in no cluster count for the covariance alone.
        pca: Principal axes of a subspace to erase from, at most; None for all.

    Returns:
        The codes without the task.
    """
    labels = task.without_noise().labels[fitted]
    values = np.array(codes.values)
    for k in range(values.shape[1]):
        if k != codes.info.principal_subspace:
            values[:, k] = _erase(values[:, k].astype(np.float64), labels, fitted, pca)
    return replace(codes, values=values)


def _erase(
    values: NDArray[np.float64],
    labels: NDArray[np.int64],
    fitted: NDArray[np.int64],
    pca: int | None,
) -> NDArray[np.float64]:
    """Erase labels of some rows from all, shape (N, D)."""
    # They import scipy, which takes a while, and few discoveries need them.
    from detaux_pl.models.erasure import fit_erasure
    from detaux_pl.models.feature_split import optimal_shrinkage

    mean, axes = principal_axes(values, pca, fitted)
    points = (values - mean) @ axes
    seen = points[fitted]
    if not seen.size:  # a dead subspace
        return values
    erasure = fit_erasure(seen, labels, optimal_shrinkage(seen))
    left = erasure(points)
    # What rounding leaves of the task would be clustered, were it all there is.
    if left[fitted].var(axis=0).sum() <= _NEGLIGIBLE * seen.var(axis=0).sum():
        return np.broadcast_to(mean, values.shape)
    erased: NDArray[np.float64] = values - (points - left) @ axes.T
    return erased
