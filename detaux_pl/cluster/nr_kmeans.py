"""Nr-Kmeans: several clusterings of the same points, each in a subspace of its own."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cluster.base import Clusterer, nearest_centre


class NrKMeans(Clusterer):
    """Non-redundant k-means: rotates the space so that each subspace has a clustering of its own.

    The clusterings have given numbers of clusters; the task is the first one, the others, such as
    that of the principal classes, take what it shall not be. A clustering may end with fewer
    clusters than asked for. There is no noise. The strength of a membership is the margin over the
    second nearest centre in the subspace of the task, see `nearest_centre`.

    Args:
        n_clusters: Number of clusters of the task, at least 2.
        n_other: Number of clusters of each other clustering, at least one of them; a last one of
            1 holds the dimensions without clusters.
        n_init: Number of starts, of which the best one counts: most end in poor optima.
        max_iter: Largest number of steps of a start.
        seed: Seed of the starts.

    Raises:
        ValueError: If a number is outside its range, or ClustPy is not installed.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> known, hidden = rng.integers(2, size=90), rng.integers(3, size=90)
        >>> points = np.stack([8 * known, 4 * hidden], axis=1) + rng.normal(0, 0.1, (90, 2))
        >>> labels, _ = NrKMeans(n_clusters=3, n_other=[2], n_init=2).fit(points)
        >>> np.unique(np.stack([labels, hidden]), axis=1).shape[1]  # a cluster is a hidden class
        3

    References:
        Mautz, Ye, Plant and Böhm 2018, "Discovering Non-Redundant K-means Clusterings in Optimal
        Subspaces"; Leiber et al. 2023, ClustPy.
    """

    def __init__(
        self,
        n_clusters: int,
        n_other: list[int],
        n_init: int = 30,
        max_iter: int = 300,
        seed: int = 0,
    ) -> None:
        if n_clusters < 2:
            raise ValueError(f"n_clusters is {n_clusters}: a task has at least 2 clusters.")
        if not n_other or min(n_other) < 1 or 1 in n_other[:-1]:
            raise ValueError(
                f"n_other is {n_other}: give the number of clusters of each other clustering; only "
                "the last may be 1."
            )
        if n_init < 1 or max_iter < 1:
            raise ValueError(f"n_init is {n_init} and max_iter is {max_iter}: give at least 1.")
        if find_spec("clustpy") is None:
            raise ValueError(
                'NrKMeans needs the package clustpy: pip install "detaux_pl[clustpy]".'
            )
        self.n_clusters = n_clusters
        self.n_other = n_other
        self.n_init = n_init
        self.max_iter = max_iter
        self.seed = seed
        self._model: Any = None

    def fit(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Cluster points, shape (n, d).

        Raises:
            UserError: If there are fewer points than clusters, fewer dimensions than clusterings,
                or every start loses a whole clustering.
        """
        from clustpy.alternative import NrKmeans  # type: ignore[import-untyped]  # 4 s to import
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        points = self.to_fit(points)
        numbers = [self.n_clusters, *self.n_other]
        n, dims = points.shape
        if max(numbers) > n or len(numbers) > dims:
            raise UserError(
                f"NrKMeans looks for {len(numbers)} clusterings of {numbers} clusters, but gets "
                f"{n} points of {dims} dimensions: give more of them, or lower the numbers."
            )
        # ClustPy compares with absolute numbers; the scale of the codes shall not matter.
        self._mean = points.mean(axis=0)
        self._scale = max(float(np.sqrt(points.var(axis=0).sum())), 1e-12)
        scaled = (points - self._mean) / self._scale
        self._model, least = None, (np.inf, np.inf)
        wanted = [number for number in numbers if number > 1]
        # ClustPy's own starts would go on without the clusters that an earlier one has lost.
        starts = np.random.default_rng(self.seed).integers(1 << 31, size=self.n_init)
        with threadpool_limits(1), warnings.catch_warnings():
            # Means of the clusters that a start loses.
            warnings.simplefilter("ignore", RuntimeWarning)
            for start in starts.tolist():
                model = NrKmeans(numbers, max_iter=self.max_iter, random_state=start).fit(scaled)
                kept = [number for number in model.n_clusters_final_ if number > 1]
                if len(kept) < len(wanted):
                    continue
                if (cost := (sum(wanted) - sum(kept), model.calculate_cost_function())) < least:
                    self._model, least = model, cost
        if self._model is None:
            raise UserError(
                f"NrKMeans lost one of its clusterings of {numbers} clusters in all {self.n_init} "
                "starts: lower n_clusters or n_other, or raise n_init."
            )
        return self.predict(points)

    def predict(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Assign new points, shape (n, d), to the nearest centre in the subspace of the task."""
        points = self.to_predict(points)
        axes = self._model.V_[:, self._model.P_[0]]
        scaled = (points - self._mean) / self._scale
        return nearest_centre(scaled @ axes, self._model.cluster_centers_[0] @ axes)
