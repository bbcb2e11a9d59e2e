"""HDBSCAN: clusters of any shape and number, and noise."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cluster.base import Clusterer
from detaux_pl.cluster.reachability import Reachability

_NEIGHBOURS = 1 << 22
"""Neighbours to hold at a time while predicting: 64 MB."""


class HDBSCAN(Clusterer):
    """Density-based clusters that last over the widest range of densities.

    Exact and free of randomness: the same points in the same order give the same clusters. It
    finds no cluster or at least two, never one: a single blob is all noise, unless `min_samples`
    is so small that chance splits it.

    Time and memory of a fit grow with n times `min_samples`: of a share, with n^2. `Discovery`
    therefore fits a random sample of 20,000 points where there are more and `fit_on` is not given;
    as share of that the smallest cluster means the same.

    Args:
        min_cluster_size: Smallest cluster, as a share of the fitted points in (0, 1), rounded
            down, or as a number of points from 2. Paper: 0.02 on 3D Shapes, 0.01 on real images.
        min_samples: Neighbours that make a point dense, without itself (scikit-learn's HDBSCAN
            counts it): fewer give less noise. None for as many as the smallest cluster has points.
        cluster_selection_method: `eom` prefers few large clusters, `leaf` many small ones.

    Raises:
        ValueError: If a size is outside its range.

    Example:
        >>> points = np.add.outer([0.0, 5.0, 9.0], np.linspace(0, 1, 20)).reshape(-1, 1)
        >>> clusterer = HDBSCAN(min_cluster_size=10)
        >>> labels, _ = clusterer.fit(points)
        >>> np.bincount(labels), clusterer.predict(np.array([[100.0]]))[0]  # far out is noise
        (array([20, 20, 20]), array([-1]))

    References:
        Campello, Moulavi, Sander 2013; McInnes, Healy, Astels 2017, `hdbscan`.
    """

    most = 20_000

    def __init__(
        self,
        min_cluster_size: int | float = 0.01,
        min_samples: int | None = None,
        cluster_selection_method: Literal["eom", "leaf"] = "eom",
    ) -> None:
        is_share = isinstance(min_cluster_size, float)
        if not (0 < min_cluster_size < 1 if is_share else min_cluster_size >= 2):
            raise ValueError(
                f"min_cluster_size is {min_cluster_size!r}: give a share of the points in (0, 1) "
                "or a whole number from 2."
            )
        if min_samples is not None and min_samples < 1:
            raise ValueError(f"min_samples is {min_samples}: it is at least 1, or null.")
        self.min_cluster_size = min_cluster_size
        self.min_samples = min_samples
        self.cluster_selection_method = cluster_selection_method
        self._model: Any = None
        self._many: Reachability | None = None

    def fit(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Cluster points, shape (n, d).

        Raises:
            UserError: If there are fewer than twice as many points as a dense point has
                neighbours.
        """
        points = self.to_fit(points)
        size = self.min_cluster_size
        if isinstance(size, float):
            size = max(2, int(size * len(points)))
        neighbours = self.min_samples or size
        if 2 * neighbours > len(points):
            raise UserError(
                f"HDBSCAN with min_cluster_size {size} and min_samples {neighbours} needs at "
                f"least {2 * neighbours} points, but gets {len(points)}: lower them."
            )
        from hdbscan import HDBSCAN as Model  # two seconds to import

        self._model = Model(
            min_cluster_size=size,
            min_samples=neighbours,
            cluster_selection_method=self.cluster_selection_method,
            approx_min_span_tree=False,
            prediction_data=True,
            # Its default of 4 processes took 18 s for 50,000 points of 8 dims, one took 11 s.
            core_dist_n_jobs=1,
        ).fit(points)
        self._many = Reachability(self._model) if len(points) >= self.most else None
        return self._model.labels_.astype(np.int64), self._model.probabilities_

    def predict(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Assign new points, shape (n, d), by the density that they have among the fitted ones."""
        from hdbscan import approximate_predict

        points = self.to_predict(points)
        if self._many is not None:
            return self._many(points)
        labels = np.empty(len(points), dtype=np.int64)
        strengths = np.empty(len(points))
        # Every point asks for 2 min_samples neighbours: 8 GB for half a million points and 500.
        step = max(1, _NEIGHBOURS // (2 * self._model.min_samples))
        for start in range(0, len(points), step):
            part = slice(start, start + step)
            labels[part], strengths[part] = approximate_predict(self._model, points[part])
        return labels, strengths
