"""Mean shift: clusters around the peaks of the density."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cluster.base import Clusterer, nearest_centre

_SAMPLES = 2000
"""Points that the bandwidth is estimated on, at most: its time grows with their square."""


class MeanShift(Clusterer):
    """Clusters around the peaks of the density, as many as there are.

    A window of a radius, the bandwidth, moves to the mean of the points in it until it rests; a
    point belongs to the peak that is nearest. Windows start from a point of each cell of a grid as
    wide as the bandwidth. There is no noise, but a point far from all others is a cluster of its
    own. The strength of a membership is the margin over the second nearest peak, see
    `nearest_centre`.

    Args:
        bandwidth: Radius of the window, in the units of the codes; null to estimate it: the mean
            distance of the fitted points to the neighbour within which a share of them lies, as
            scikit-learn does.
        quantile: That share, in (0, 1]: clusters much smaller than it fuse. scikit-learn: 0.3,
            which fuses all where there are more than three. Paper: not given.
        min_bin_freq: Points that a cell of the grid needs for a window to start there, at least
            1: more is faster, and leaves peaks of fewer points out.
        seed: Seed of the points that the bandwidth is estimated on, where they are many.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> points = np.add.outer([0.0, 5.0, 9.0], np.linspace(0, 1, 20)).reshape(-1, 1)
        >>> labels, _ = MeanShift(bandwidth=1.0).fit(points)
        >>> np.bincount(labels)
        array([20, 20, 20])

    References:
        Comaniciu and Meer 2002, "Mean Shift: A Robust Approach Toward Feature Space Analysis".
    """

    def __init__(
        self,
        bandwidth: float | None = None,
        quantile: float = 0.1,
        min_bin_freq: int = 1,
        seed: int = 0,
    ) -> None:
        if bandwidth is not None and not bandwidth > 0:
            raise ValueError(f"bandwidth is {bandwidth}: it is positive, or null to estimate it.")
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile is {quantile}: give a share of the points in (0, 1].")
        if min_bin_freq < 1:
            raise ValueError(f"min_bin_freq is {min_bin_freq}: give at least 1 point.")
        self.bandwidth = bandwidth
        self.quantile = quantile
        self.min_bin_freq = min_bin_freq
        self.seed = seed
        self._centres: NDArray[np.float64] | None = None

    def fit(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Cluster points, shape (n, d).

        Raises:
            UserError: If the estimated bandwidth is 0, or no window has a start.
        """
        from sklearn.cluster import MeanShift as Model  # a second to import
        from sklearn.cluster import estimate_bandwidth

        points = self.to_fit(points)
        bandwidth = self.bandwidth
        if bandwidth is None:
            n_samples = min(len(points), _SAMPLES)
            bandwidth = estimate_bandwidth(
                points, quantile=self.quantile, n_samples=n_samples, random_state=self.seed
            )
        if not bandwidth > 0:
            raise UserError(
                f"MeanShift estimates a bandwidth of 0: points are alike to {self.quantile:.0%} of "
                "the others. Give a larger quantile, or a bandwidth."
            )
        cells = np.round(points / bandwidth)
        _, first, counts = np.unique(cells, axis=0, return_index=True, return_counts=True)
        # scikit-learn's own starts are the middles of the cells, far from all points where the
        # dimensions are many.
        starts = points[np.sort(first[counts >= self.min_bin_freq])]
        if not len(starts):
            raise UserError(
                f"MeanShift with bandwidth {bandwidth:.3g} finds no cell with {self.min_bin_freq} "
                "points: lower min_bin_freq, or give a larger quantile or bandwidth."
            )
        model = Model(bandwidth=bandwidth, seeds=starts).fit(points)
        self._centres = model.cluster_centers_
        return self.predict(points)

    def predict(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Assign new points, shape (n, d), to the nearest peak."""
        points = self.to_predict(points)
        assert self._centres is not None  # fitted before
        return nearest_centre(points, self._centres)
