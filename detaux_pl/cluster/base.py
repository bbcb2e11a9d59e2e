"""What a clusterer is."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOISE = -1
"""Label of a point that belongs to no cluster."""


class Clusterer(ABC):
    """Groups points, and tells the group of points that it has not seen.

    A subclass keeps every argument of its `__init__` under the argument's name, as a value that
    JSON can hold: they are recorded with the labels. `fit` forgets what was fitted before. How
    the clusters are numbered does not matter: `Discovery` numbers them anew.
    """

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

    @property
    def settings(self) -> dict[str, Any]:
        """The class and the arguments that it was made with."""
        names = inspect.signature(type(self)).parameters
        return {"class": type(self).__name__} | {name: getattr(self, name) for name in names}
