"""Codes that are linear in features: what tells the classes, and what is left."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.models.erasure import fit_erasure
from detaux_pl.models.linear_probe import fit_linear_probe
from detaux_pl.models.principal_axes import project

Array = NDArray[np.float64]

_NEGLIGIBLE = 1e-8
"""Share of the total variance below which a direction counts as constant."""


class FeatureSplit(NamedTuple):
    """A linear map from features to codes: `s = analysis (x - mean)`.

    Args:
        mean: Shape (F,).
        analysis: Shape (2, D, F).
        shrinkage: What the covariance was shrunken by.
    """

    mean: Array
    analysis: Array
    shrinkage: float


def split_features(
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    labels: NDArray[np.integer],
    n_classes: int,
    pca: int,
    subspace_dim: int,
    principal: int = 0,
    shrinkage: float | None = None,
    seed: int = 0,
) -> FeatureSplit:
    """Split a space of features by the classes of some rows, labelled or not.

    1. The features are described by their `pca` leading principal axes.
    2. Rows without label get that which a linear probe of the others gives them.
    3. What tells the labels is erased in the whitened space, see `fit_erasure`.
    4. The subspace `principal` holds what was erased, the other one what is left, each by its
       own leading principal axes; where these run out, code dimensions are constantly 0.

    Args:
        features: Shape (N, F); it is read by blocks.
        rows: Rows to fit to, shape (n,).
        labels: Class of each of these, shape (n,); below 0 for none.
        n_classes: Number of classes.
        pca: Number of principal axes that are kept.
        subspace_dim: Dimensions D of each subspace.
        principal: Index of the subspace for the classes, 0 or 1.
        shrinkage: That of the covariance, see `fit_erasure`; None for `optimal_shrinkage`.
        seed: Of the folds of the probe.

    Raises:
        UserError: See `refuse_few_labels`.
    """
    refuse_few_labels(labels, n_classes)
    labelled = labels >= 0
    points, mean, axes = project(features, pca, rows)
    if not labelled.all():
        probe = fit_linear_probe(points[labelled], labels[labelled], n_classes, seed)
        labels = np.where(labelled, labels, probe.logits(points).argmax(axis=1))
    if shrinkage is None:
        shrinkage = optimal_shrinkage(points)
    erasure = fit_erasure(points, labels, shrinkage)
    told = erasure.directions @ erasure.readout
    analysis = np.zeros((2, subspace_dim, len(mean)))
    covariance = points.T @ points / len(points)
    for index, part in ((principal, told), (1 - principal, np.eye(len(told)) - told)):
        variances, own = np.linalg.eigh(part @ covariance @ part.T)
        alive = variances > _NEGLIGIBLE * variances.sum()
        leading = _upright(own[:, alive][:, ::-1].T[:subspace_dim] @ part @ axes.T)
        analysis[index, : len(leading)] = leading
    return FeatureSplit(mean, analysis, shrinkage)


def refuse_few_labels(labels: NDArray[np.integer], n_classes: int) -> None:
    """Refuse labels of training images, below 0 for none, that tell nothing of the classes.

    Raises:
        UserError: If fewer have a label than there are classes, or all the same one.
    """
    given = labels[labels >= 0]
    n_given = len(np.unique(given))
    if len(given) < n_classes or n_given < 2:
        raise UserError(
            f"{len(given):,} training images have a label, of {n_given} of the {n_classes} classes:"
            " give at least as many as there are classes, of 2 of them or more."
        )


def optimal_shrinkage(points: Array) -> float:
    """Return by what the covariance of points is best shrunken, for `fit_erasure`.

    Ledoit and Wolf's estimate is `(1 - a) S + a tr(S) / d I`, at the least expected squared error;
    up to its scale, that is `S + a / (1 - a) tr(S) / d I`. It falls with the number of points: to
    nothing where they are many for their dimensions.

    Args:
        points: Shape (n, d).

    References:
        Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
        matrices", lemma 3.2.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    share = float(ledoit_wolf_shrinkage(points))
    return min(share / (1 - share), 1.0) if share < 1 else 1.0


def _upright(axes: Array) -> Array:
    """Turn axes, shape (n, d), so that the largest component of each is positive."""
    largest = np.abs(axes).argmax(axis=1)[:, None]
    signs: Array = np.sign(np.take_along_axis(axes, largest, 1))
    return axes * signs
