"""Ward: a given number of clusters, by merging those that lose least."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cluster.base import Clusterer, nearest_centre

_EXACT = 20_000
"""Different points that are merged among all, at most: the time grows with their square.

On one core, 50 dimensions: 2 s and 7 MB for 5,000 points, 39 s and 26 MB for 20,000, 214 s and
65 MB for 50,000. Along a graph of 10 neighbours, which finds others where clusters overlap: 2 s and
35 MB, 23 s and 153 MB, 48 s and 419 MB. A table of all distances, which scikit-learn makes without
a graph, takes 44 s and 3 GB for 20,000.
"""

_LAST: dict[bytes, _Tree] = {}
"""The tree that was grown last, by a digest of its points."""


class Ward(Clusterer):
    """Clusters that are merged from single points, each time the two that lose least by it.

    What a merge of A and B loses is the rise of the sum of squared distances of points to the
    mean of their cluster, `|A| |B| / (|A| + |B|) |mean(A) - mean(B)|^2`. Every point is in a
    cluster: there is no noise. A new point belongs to the nearest mean, and the strength of a
    membership is the margin over the second nearest one, see `nearest_centre`; it is 0 for a
    fitted point that is nearer to the mean of another cluster than to that of its own. Nothing is
    drawn at random.

    Of more than 20,000 different points only those are merged that a graph of nearest neighbours
    links, which finds the same clusters where there are some: two points are linked if one is
    among the nearest of the other, and parts without a link at the points in their middle.

    Args:
        n_clusters: Number of clusters, at least 2.
        neighbors: Nearest points that each point is linked with in that graph, at least 1.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> points = np.add.outer([0.0, 5.0, 9.0], np.linspace(0, 1, 20)).reshape(-1, 1)
        >>> labels, strength = Ward(n_clusters=3).fit(points)
        >>> np.bincount(labels), bool(strength.min() > 0.5)
        (array([20, 20, 20]), True)

    References:
        Ward 1963, "Hierarchical Grouping to Optimize an Objective Function"; Müllner 2011,
        arXiv 1109.2378, figure 3: chains of nearest neighbours.
    """

    most = 50_000

    def __init__(self, n_clusters: int = 8, neighbors: int = 10) -> None:
        if n_clusters < 2:
            raise ValueError(f"n_clusters is {n_clusters}: a task has at least 2 clusters.")
        if neighbors < 1:
            raise ValueError(f"neighbors is {neighbors}: give at least 1.")
        self.n_clusters = n_clusters
        self.neighbors = neighbors
        self._centres: NDArray[np.float64] | None = None

    def fit(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Cluster points, shape (n, d).

        Raises:
            UserError: If there are fewer different points than clusters.
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        points = self.to_fit(points)
        unlike, place, counts = np.unique(points, axis=0, return_inverse=True, return_counts=True)
        if len(unlike) < self.n_clusters:
            raise UserError(
                f"Ward with n_clusters {self.n_clusters} needs as many different points, but gets "
                f"{len(unlike)} among {len(points)}: lower n_clusters."
            )
        # With several threads the last digits, and with them ties, depend on which one ends first.
        with threadpool_limits(1):
            if len(unlike) <= _EXACT:
                labels = _cut(_grow_once(unlike, counts), self.n_clusters)[place.reshape(-1)]
            else:
                labels = _merge_linked(points, self.neighbors, self.n_clusters)
        self._centres = _means(points, labels)
        nearest, strength = nearest_centre(points, self._centres)
        return labels, np.where(nearest == labels, strength, 0.0)

    def predict(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Assign new points, shape (n, d), to the cluster of the nearest mean."""
        points = self.to_predict(points)
        assert self._centres is not None  # fitted before
        return nearest_centre(points, self._centres)


class _Tree(NamedTuple):
    """Merges of n points until one cluster is left, each shape (n - 1,).

    Args:
        first: A point of the one cluster.
        second: A point of the other one.
        lost: What the merge loses.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    lost: NDArray[np.float64]


def _grow_once(points: NDArray[np.float64], counts: NDArray[np.int64]) -> _Tree:
    """Grow the tree of points, or take the last one where they are the same.

    Whoever looks for the number of clusters asks for many of one tree.
    """
    key = sha256(points.tobytes() + counts.tobytes()).digest()
    if key not in _LAST:
        tree = _grow(points, counts)
        _LAST.clear()
        _LAST[key] = tree
    return _LAST[key]


def _cut(tree: _Tree, n_clusters: int) -> NDArray[np.int64]:
    """Cluster the points of a tree, shape (n,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(tree.lost) + 1
    # Each merge links two points, and all of them all points: without the costliest there remain
    # as many clusters as are wanted.
    kept = np.argsort(tree.lost, kind="stable")[: n - n_clusters]
    links = np.ones(len(kept)), (tree.first[kept], tree.second[kept])
    graph = coo_array(links, shape=(n, n))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def _grow(points: NDArray[np.float64], counts: NDArray[np.int64]) -> _Tree:
    """Merge different points, shape (n, d), each of which counts several times.

    From any cluster on, each one's nearest follows, until two are nearest to each other: those are
    merged, as no merge elsewhere can come between them. Memory grows with n, time with n^2.
    """
    # Squares of the largest and the smallest numbers would be none.
    means = np.ldexp(points, -np.frexp(np.abs(points).max())[1])
    means -= means.mean(axis=0)
    sizes, squares = counts.astype(np.float64), np.square(means).sum(axis=1)
    alive, which = np.ones(len(points), dtype=bool), np.arange(len(points))
    first, second, lost = [], [], []
    chain: list[int] = []
    for _ in range(len(points) - 1):
        chain = chain or [int(alive.argmax())]
        while True:
            last = chain[-1]
            loss = squares + squares[last] - 2 * (means @ means[last])
            loss *= sizes * sizes[last] / (sizes + sizes[last])
            previous = loss[chain[-2]] if len(chain) > 1 else np.inf
            # Rounding must not lead back to any but the previous one, or there would be no end.
            loss[chain] = np.inf
            loss[~alive] = np.inf
            nearest = int(loss.argmin())
            if previous <= loss[nearest]:
                break
            chain.append(nearest)
        last, other = chain.pop(), chain.pop()
        first.append(which[last])
        second.append(which[other])
        lost.append(previous)
        size = sizes[last] + sizes[other]
        means[last] = (sizes[last] * means[last] + sizes[other] * means[other]) / size
        sizes[last], squares[last] = size, means[last] @ means[last]
        alive[other] = False
        if np.count_nonzero(alive) < 0.75 * len(alive):
            moved = np.cumsum(alive) - 1
            chain = moved[chain].tolist()
            means, sizes, squares = means[alive], sizes[alive], squares[alive]
            which, alive = which[alive], alive[alive]
    return _Tree(np.array(first), np.array(second), np.array(lost))


def _merge_linked(
    points: NDArray[np.float64], neighbors: int, n_clusters: int
) -> NDArray[np.int64]:
    """Cluster points, shape (n, d), by merges along a graph of nearest neighbours."""
    from sklearn.cluster import AgglomerativeClustering  # a second to import
    from sklearn.neighbors import kneighbors_graph

    graph = _linked(kneighbors_graph(points, min(neighbors, len(points) - 1)), points)
    model = AgglomerativeClustering(n_clusters, connectivity=graph)
    found: NDArray[np.int64] = model.fit_predict(points).astype(np.int64)
    return found


def _linked(graph: Any, points: NDArray[np.float64]) -> Any:
    """Link the parts of a graph until there is one, each with the nearest other.

    scikit-learn warns of several parts, and computes all distances between the points of two.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import NearestNeighbors

    while True:
        n_parts, parts = connected_components(graph, directed=False)
        if n_parts == 1:
            return graph
        away = np.square(points - _means(points, parts)[parts]).sum(axis=1)
        order = np.lexsort((away, parts))
        middle = order[np.unique(parts[order], return_index=True)[1]]
        search = NearestNeighbors(n_neighbors=1).fit(points[middle])
        other = middle[search.kneighbors(return_distance=False)[:, 0]]
        graph = graph + coo_array((np.ones(n_parts), (middle, other)), shape=graph.shape)


def _means(points: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the mean of the points of each label, from 0, shape (k, d)."""
    from scipy.sparse import csr_array

    shares = 1 / np.bincount(labels)[labels]
    rows = csr_array((shares, (labels, np.arange(len(labels)))))
    means: NDArray[np.float64] = rows @ points
    return means
