"""What a fitted HDBSCAN says of new points, many at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DISTANCES = 1 << 20
"""Distances to hold at a time, 8 MB, in one piece of memory: new pages took a third of the time."""


class Reachability:
    """The rule of `hdbscan.approximate_predict`, by matrix products.

    A new point is as dense as it is near to its k-th neighbour among the fitted points, at the
    distance c. It joins the fitted point j with the least `max(c, c_j, d_j)`, its mutual
    reachability, in the smallest cluster around j that is still there at this distance. hdbscan
    asks a tree for 2k neighbours of each point and goes through them one by one, which takes two to
    six times as long where k is hundreds.

    Args:
        model: A fitted `hdbscan.HDBSCAN` with prediction data.

    References:
        McInnes, Healy, Astels 2017, `hdbscan`, prediction.py.
    """

    def __init__(self, model: Any) -> None:
        data, tree = model.prediction_data_, model.condensed_tree_.to_numpy()
        n = len(data.core_distances)
        # By falling density: those that are denser than a new point come first.
        order = np.argsort(data.core_distances, kind="stable")
        self._core = data.core_distances[order]
        self._n_neighbours = model.min_samples
        self._mean = data.raw_data.mean(axis=0)
        points = data.raw_data[order] - self._mean
        self._table = np.concatenate([-2 * points, np.square(points).sum(axis=1)[:, None]], axis=1)
        single = tree[tree["child"] < n]
        place = np.empty(n, dtype=np.int64)
        place[single["child"]] = np.arange(n)
        self._cluster = single["parent"][place[order]] - n
        self._leaves = single["lambda_val"][place[order]]
        n_clusters = int(tree["parent"].max()) - n + 1
        # The root, which all begins with, is its own parent.
        self._parent, self._born = np.zeros(n_clusters, dtype=np.int64), np.zeros(n_clusters)
        children = data.cluster_tree["child"] - n
        self._parent[children] = data.cluster_tree["parent"] - n
        self._born[children] = data.cluster_tree["lambda_val"]
        self._label, self._most = np.full(n_clusters, -1), np.zeros(n_clusters)
        for cluster, label in data.cluster_map.items():
            self._label[cluster - n] = label
            self._most[cluster - n] = data.max_lambdas[cluster]

    def __call__(
        self, points: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the cluster of each point, shape (n, d), or -1, and its strength, as `predict`."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        joined, reach = np.empty(len(points), dtype=np.int64), np.empty(len(points))
        step = max(1, _DISTANCES // len(self._core))
        room = np.empty((step, len(self._core)))
        with threadpool_limits(1):  # which thread ends first would show in the last digits
            for start in range(0, len(points), step):
                part = slice(start, start + step)
                joined[part], reach[part] = self._join(points[part] - self._mean, room)
        density = 1 / np.maximum(reach, np.finfo(np.float64).tiny)
        cluster, leaves = self._cluster[joined], self._leaves[joined] > density
        while (up := leaves & (cluster > 0) & (self._born[cluster] >= density)).any():
            cluster = np.where(up, self._parent[cluster], cluster)
        most = self._most[cluster]
        share = np.where(most > 0, np.minimum(density, most) / np.where(most > 0, most, 1.0), 1.0)
        labels = self._label[cluster]
        return labels, np.where(labels >= 0, share, 0.0)

    def _join(
        self, points: NDArray[np.float64], room: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return which fitted point each centred point joins, and at which distance."""
        own = np.square(points).sum(axis=1)
        # Squared distances but for that of the point itself to the mean.
        augmented = np.concatenate([points, np.ones((len(points), 1))], axis=1)
        apart = np.matmul(augmented, self._table.T, out=room[: len(points)])
        k, farthest, sorting = self._n_neighbours, np.empty(len(points)), np.empty(room.shape[1])
        for row, near in enumerate(apart):
            sorting[:] = near
            sorting.partition(k)
            farthest[row] = sorting[k]
        reach = np.sqrt(np.maximum(farthest + own, 0))
        joined = np.empty(len(points), dtype=np.int64)
        for row, denser in enumerate(np.searchsorted(self._core, reach, side="right").tolist()):
            near = apart[row]
            nearest = int(near[:denser].argmin()) if denser else 0
            if not denser or near[nearest] > farthest[row]:  # the point is a peak of the density
                mutual = np.sqrt(np.maximum(near + own[row], 0))
                mutual = np.maximum(mutual, np.maximum(self._core, reach[row]))
                # approximate_predict looks no further.
                mutual[near > np.partition(near, 2 * k - 1)[2 * k - 1]] = np.inf
                nearest = int(mutual.argmin())
                reach[row] = mutual[nearest]
            joined[row] = nearest
        return joined, reach
