"""A linear classifier on features from which groups of images were erased."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.models.erasure import Erasure, fit_erasure, mean_erasure
from detaux_pl.models.linear_probe import LinearProbe, fit_linear_probe
from detaux_pl.models.principal_axes import project

Array = NDArray[np.float64]


def fit_erased_probe(
    features: NDArray[np.floating],
    labels: NDArray[np.integer],
    n_classes: int,
    groups: NDArray[np.integer],
    pca: int = 200,
    shrinkage: float = 0.1,
    seed: int = 0,
) -> LinearProbe:
    """Fit a linear classifier on features from which groups were erased.

    Args:
        features: Of all training images, labelled or not, shape (n, d).
        labels: Label of each, negative where there is none, shape (n,).
        n_classes: Number of classes.
        groups: Label of every row in each grouping to erase, negative where it is in no group,
            shape (n, m); with m 0 nothing is erased.
        pca: Principal components of the features to work in, at most.
        shrinkage: Of the covariance in the erasure, see `fit_erasure`.
        seed: Of the folds that choose the strength of the penalty.

    Returns:
        The classifier for features as given, into which the erasure is folded.

    Raises:
        ValueError: As `fit_erasure` and `fit_linear_probe`.

    Example:
        >>> labels, groups = np.arange(240) % 2, np.arange(240) // 2 % 2
        >>> features = np.random.default_rng(0).normal(size=(240, 6))
        >>> features[:, 0] += 3 * labels + 20 * groups
        >>> features[:, 1] += 20 * groups
        >>> few = np.where(np.arange(240) < 6, labels, -1)
        >>> probes = [
        ...     fit_erased_probe(features, few, 2, columns)
        ...     for columns in (groups[:, None][:, :0], groups[:, None])
        ... ]
        >>> plain, erased = [
        ...     (probe.logits(features).argmax(axis=1) == labels).mean() for probe in probes
        ... ]
        >>> bool(erased > plain + 0.1)
        True
    """
    coordinates, mean, axes = project(features, pca)
    erasure = erase_groups(coordinates, groups, shrinkage)
    given = labels >= 0
    probe = fit_linear_probe(erasure(coordinates[given]), labels[given], n_classes, seed)
    weight, bias = erasure.fold(probe.weight, probe.bias)
    weight = weight @ axes.T
    return LinearProbe(weight, bias - weight @ mean)


def erase_groups(features: Array, groups: NDArray[np.integer], shrinkage: float) -> Erasure:
    """Return the mean of the erasures of several groupings, or a map that changes nothing.

    Args:
        features: Shape (n, d).
        groups: Label of every row in each grouping, or a negative number, shape (n, m); a grouping
            without a group counts, and erases nothing.
        shrinkage: Of the covariance, see `fit_erasure`.
    """
    columns = list(groups.T) or [np.zeros(len(features), dtype=np.int64)]
    return mean_erasure(
        [fit_erasure(features, g if (g >= 0).any() else 0 * g, shrinkage) for g in columns]
    )
