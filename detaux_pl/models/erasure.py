"""Linear erasure of a labelled concept, and the whitened projection that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NEGLIGIBLE = 1e-8
"""Share of the total variance below which a direction counts as constant, and correlation of a
direction with the classes below which it has none."""


class Whitened(NamedTuple):
    """Directions of a space by how well classes tell them, uncorrelated and of variance 1.

    Of a vector x, the coordinates are `readout (x - mean)`, and `directions` times these is what
    they are of it.

    Args:
        directions: Shape (d, r), the best told first.
        readout: Shape (r, d), a left inverse of it.
        correlations: Canonical correlations of the leading ones with the classes, falling, in
            [0, 1]; less where the covariance was shrunken. Shape (at most the number of classes,).
    """

    directions: Array
    readout: Array
    correlations: Array


class Erasure(NamedTuple):
    """An affine map after which a concept cannot be told linearly: `x - D R (x - mean)`.

    Args:
        mean: Shape (d,).
        directions: D, shape (d, r).
        readout: R, shape (r, d), with `R D` the identity.

    Example:
        >>> features = np.array([[0.0, 1.0], [2.0, 3.0], [0.0, 3.0], [2.0, 1.0]])
        >>> erasure = fit_erasure(features, np.array([0, 1, 0, 1]))
        >>> erasure(features).round(9).tolist()
        [[1.0, 1.0], [1.0, 3.0], [1.0, 3.0], [1.0, 1.0]]
        >>> weight, bias = erasure.fold(np.array([[5.0, 1.0]]), np.array([0.5]))
        >>> (weight.round(9).tolist(), bias.round(9).tolist())
        ([[0.0, 1.0]], [5.5])
    """

    mean: Array
    directions: Array
    readout: Array

    def __call__(self, x: NDArray[np.floating]) -> Array:
        """Erase the concept from vectors, shape (n, d)."""
        erased: Array = x - ((x - self.mean) @ self.readout.T) @ self.directions.T
        return erased

    def fold(self, weight: NDArray[np.floating], bias: NDArray[np.floating]) -> tuple[Array, Array]:
        """Return the linear layer that gives on x what the given one gives on the erased x.

        Args:
            weight: Shape (C, d).
            bias: Shape (C,).

        Returns:
            Weight and bias, of the same shapes.
        """
        carried = weight @ self.directions
        return weight - carried @ self.readout, bias + carried @ (self.readout @ self.mean)


def fit_erasure(
    features: NDArray[np.floating], labels: NDArray[np.integer], shrinkage: float = 0.0
) -> Erasure:
    """Return the erasure of labels from features that changes them least.

    With S the covariance and W = S^(-1/2), U are the left singular vectors of W Cov(x, z), z the
    one-hot labels, and `x' = x - W^+ U U^T W (x - mean)`. In sample no linear classifier of z on x'
    beats a constant, where all rows are labelled and nothing is shrunken; of all affine maps that
    do this it changes x least, in the mean of any squared norm.

    Args:
        features: Shape (n, d). Columns that are constant stay untouched, to the bit.
        labels: Class of each row, shape (n,). Rows with labels below 0 are left out of the class
            means, and count for the covariance.
        shrinkage: S is the covariance plus this times its mean eigenvalue times the identity; >= 0.
            Where rows are few for the dimensions, .01 to .1 keeps what is erased to what is there.

    Returns:
        The erasure, of rank at most the number of classes with rows, less one.

    Raises:
        ValueError: If shapes do not fit, no row has a label, a feature is not finite, or the
            shrinkage is negative.

    References:
        Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form", theorem 4.3.
        Differs from it in: the shrinkage.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise ValueError(
            f"features have shape {values.shape} and labels {labels.shape}: give (n, d) and (n,)."
        )
    if not np.isfinite(values).all():
        raise ValueError("a feature is NaN or infinite: leave such rows out.")
    if not (labels >= 0).any():
        raise ValueError("no row has a label: give a class from 0 to at least some of them.")
    if not shrinkage >= 0:
        raise ValueError(f"shrinkage is {shrinkage}: give a number from 0.")
    mean = values.mean(axis=0)
    # Rounding would leave some 1e-17 of the erased direction in a feature that is always 0, and
    # whoever standardises such a feature has the concept back.
    alive = np.ptp(values, axis=0) > 0
    centred = values[:, alive] - mean[alive]
    covariance = centred.T @ centred / len(values)
    covariance[np.diag_indices_from(covariance)] += (
        shrinkage * np.trace(covariance) / max(len(covariance), 1)
    )
    deviations = class_deviations(centred, labels)
    whitened = whiten_by_classes(covariance, deviations)
    rank = min(int((whitened.correlations > _NEGLIGIBLE).sum()), len(deviations) - 1)
    directions, readout = np.zeros((len(mean), rank)), np.zeros((rank, len(mean)))
    directions[alive] = whitened.directions[:, :rank]
    readout[:, alive] = whitened.readout[:rank]
    return Erasure(mean, directions, readout)


def mean_erasure(parts: Sequence[Erasure]) -> Erasure:
    """Return the mean of erasures of the same features, which is an affine map of their form.

    What all of them erase goes in full, what one of m erases to a share of 1 / m; `readout` is no
    left inverse of `directions` any more.

    Args:
        parts: The erasures, at least one.
    """
    directions = np.hstack([part.directions / len(parts) for part in parts])
    return Erasure(parts[0].mean, directions, np.vstack([part.readout for part in parts]))


def class_deviations(features: Array, labels: NDArray[np.integer]) -> Array:
    """Return what classes deviate from the mean of all labelled rows, in the order of the labels.

    Args:
        features: Shape (n, d).
        labels: Class of each row, shape (n,); rows with labels below 0 are left out.

    Returns:
        `sqrt(n_c / n) (mean_c - mean)`, shape (classes with rows, d).
    """
    rows = labels >= 0
    _, index = np.unique(labels[rows], return_inverse=True)
    share = np.bincount(index) / len(index)
    one_hot = np.eye(len(share))[index]
    means = one_hot.T @ features[rows] / len(index) / share[:, None]
    deviations: Array = np.sqrt(share)[:, None] * (means - share @ means)
    return deviations


def whiten_by_classes(covariance: Array, deviations: Array, whole: bool = False) -> Whitened:
    """Return the directions that classes tell, in the space where every direction has variance 1.

    Args:
        covariance: Shape (d, d); directions without variance are left out.
        deviations: `sqrt(n_c / n) (mean_c - mean)` of each class, shape (C, d).
        whole: Give also the directions that classes do not tell, so that the space is complete.

    Returns:
        The directions, r = min(C, those with variance), or all with variance.

    References:
        Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form", theorem 4.3.
    """
    variances, axes = np.linalg.eigh(covariance)
    alive = variances > _NEGLIGIBLE * variances.sum()
    scales, axes = np.sqrt(variances[alive]), axes[:, alive]
    whiten, colour = axes / scales, axes * scales
    # numpy's own driver, gesdd, does not converge on some features of which a part was erased.
    from scipy.linalg import svd  # a quarter of a second to import

    _, correlations, frame = svd(deviations @ whiten, full_matrices=whole, lapack_driver="gesvd")
    return Whitened(colour @ frame.T, frame @ whiten.T, correlations)
