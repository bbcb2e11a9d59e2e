"""What a clusterer is."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError

NOISE = -1
"""Label of a point that belongs to no cluster."""

_CHUNK = 1 << 22
"""Distances to hold at a time while assigning points to centres: 32 MB."""


class Clusterer(ABC):
    """Groups points, and tells the group of points that it has not seen.

    A subclass keeps every argument of its `__init__` under the argument's name, as a value that
    JSON can hold: they are recorded with the labels. `fit` begins with `to_fit`, which checks the
    points, and forgets what was fitted before; `predict` begins with `to_predict`. How the
    clusters are numbered does not matter: `Discovery` numbers them anew.
    """

    n_dims: int | None = None
    """Dimensions of the points of the last `fit`, None before."""

    most: ClassVar[int] = 100_000
    """Points to fit unless more are asked for: of more, `Discovery` fits a random sample."""

    @abstractmethod
    def fit(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Cluster points.

        Args:
            points: Shape (n, d).

        Returns:
            Cluster of each point, from 0, or `NOISE`, shape (n,); strength of its membership in
            [0, 1], 0 for noise, shape (n,).
        """

    @abstractmethod
    def predict(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Assign new points to the clusters of the last `fit`, which stay as they are.

        Args:
            points: Shape (n, d).

        Returns:
            As `fit`.
        """

    def to_fit(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Check points that are to be clustered, and take note of their dimensions.

        Args:
            points: Shape (n, d), of any precision.

        Raises:
            UserError: If there are none, they have another shape, or one is not finite.
        """
        self.n_dims = None
        checked = self._checked(points)
        if not checked.size:
            raise UserError(
                f"{type(self).__name__} gets points of shape {checked.shape}: give at least one, "
                "of at least one dimension."
            )
        self.n_dims = checked.shape[1]
        return checked

    def to_predict(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Check points that are to be assigned to the clusters of the last `fit`.

        Args:
            points: Shape (n, d), of any precision.

        Raises:
            UserError: If nothing was fitted, they have another shape, or one is not finite.
        """
        if self.n_dims is None:
            raise UserError(f"{type(self).__name__} has no clusters yet: call fit first.")
        checked = self._checked(points)
        if checked.shape[1] != self.n_dims:
            raise UserError(
                f"{type(self).__name__} was fitted on points of {self.n_dims} dimensions, but gets "
                f"some of {checked.shape[1]}: give the codes of the same subspace."
            )
        return checked

    def _checked(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        if points.ndim != 2:
            raise UserError(
                f"{type(self).__name__} gets points of shape {points.shape}: give an array (n, d)."
            )
        checked = points.astype(np.float64, copy=False)
        finite = np.isfinite(checked).all(axis=1)
        if not finite.all():
            raise UserError(
                f"{type(self).__name__} gets {np.count_nonzero(~finite)} points that are NaN or "
                f"infinite, the first in row {finite.argmin()}: train the codes anew, with a lower "
                "learning rate perhaps."
            )
        return checked

    @property
    def settings(self) -> dict[str, Any]:
        """The class and the arguments that it was made with."""
        names = inspect.signature(type(self)).parameters
        return {"class": type(self).__name__} | {name: getattr(self, name) for name in names}


def nearest_centre(
    points: NDArray[np.float64], centres: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Assign points to the nearest of some centres.

    With d1 and d2 the Euclidean distances to the nearest and the second nearest centre, the
    strength is `(d2 - d1) / d2`: 1 at a centre, 0 half-way between two. With a single centre it
    is 1.

    Args:
        points: Shape (n, d).
        centres: Shape (k, d).

    Returns:
        Index of the centre of each point, shape (n,); strength in [0, 1], shape (n,).

    Example:
        >>> nearest_centre(np.array([[0.0], [4.0]]), np.array([[0.0], [5.0]]))
        (array([0, 1]), array([1.  , 0.75]))
    """
    from scipy.spatial.distance import cdist  # its import takes longer than a short clustering

    labels = np.empty(len(points), dtype=np.int64)
    strength = np.ones(len(points))
    step = max(1, _CHUNK // len(centres))
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        distances = cdist(points[part], centres)
        labels[part] = distances.argmin(axis=1)
        if len(centres) > 1:
            first, second = np.partition(distances, 1, axis=1)[:, :2].T
            # Centres may coincide: a point on both belongs to neither more.
            strength[part] = (second - first) / np.where(second > 0, second, 1.0)
    return labels, strength
