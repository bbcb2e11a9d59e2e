"""K-means: a given number of round clusters."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cluster.base import Clusterer, nearest_centre


class KMeans(Clusterer):
    """The centres with the least sum of squared distances to the points nearest to them.

    Every point is in a cluster: there is no noise. The strength of a membership is the margin
    over the second nearest centre, see `nearest_centre`.

    Args:
        n_clusters: Number of clusters, at least 2. Paper: that of HDBSCAN's.
        init: How the starts are drawn: `k-means++` spreads them, `random` takes any points.
        n_init: Number of starts, of which the best one counts.
        seed: Seed of the starts.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> points = np.add.outer([0.0, 5.0, 9.0], np.linspace(0, 1, 20)).reshape(-1, 1)
        >>> labels, strength = KMeans(n_clusters=3).fit(points)
        >>> np.bincount(labels), bool(strength.min() > 0.5)
        (array([20, 20, 20]), True)

    References:
        Lloyd 1982; Arthur and Vassilvitskii 2007, k-means++; both rows of Detaux, table 2.
    """

    def __init__(
        self,
        n_clusters: int,
        init: Literal["k-means++", "random"] = "k-means++",
        n_init: int = 10,
        seed: int = 0,
    ) -> None:
        if n_clusters < 2:
            raise ValueError(f"n_clusters is {n_clusters}: a task has at least 2 clusters.")
        if n_init < 1:
            raise ValueError(f"n_init is {n_init}: give at least 1 start.")
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.seed = seed
        self._centres: NDArray[np.float64] | None = None

    def fit(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Cluster points, shape (n, d).

        Raises:
            UserError: If there are fewer different points than clusters.
        """
        from sklearn.cluster import KMeans as Model  # a second to import
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        points = self.to_fit(points)
        few = (
            f"KMeans with n_clusters {self.n_clusters} needs as many different points, but gets "
            f"fewer among {len(points)}: lower n_clusters."
        )
        if len(points) < self.n_clusters:
            raise UserError(few)
        model = Model(self.n_clusters, init=self.init, n_init=self.n_init, random_state=self.seed)
        # With several threads the last digits of the centres depend on which one ends first.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                model.fit(points)
            except ConvergenceWarning:
                raise UserError(few) from None
        self._centres = model.cluster_centers_
        return self.predict(points)

    def predict(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Assign new points, shape (n, d), to the nearest centre."""
        points = self.to_predict(points)
        assert self._centres is not None  # fitted before
        return nearest_centre(points, self._centres)
