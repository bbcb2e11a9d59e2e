import numpy as np
import pytest

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.cluster.base import Clusterer


@pytest.fixture
def make_codes():
    """Codes from values (N, K, D) and factors (N,) by name, the first of them principal."""

    def make(values, splits=None, principal_subspace=0, **factors):
        n = len(values)
        return Codes(
            values=np.asarray(values, dtype=np.float32),
            ids=np.arange(n),
            splits=np.zeros(n, dtype=np.int8) if splits is None else np.array(splits, np.int8),
            factors=np.stack(list(factors.values()), axis=1).astype(np.int64),
            info=FactorInfo(
                names=tuple(factors),
                sizes=tuple(int(np.max(f)) + 1 for f in factors.values()),
                principal=next(iter(factors)),
                principal_subspace=principal_subspace,
            ),
        )

    return make


@pytest.fixture
def disentangled(make_codes):
    """600 samples, five subspaces: shape, hue, dead, size, and noise that is never still."""
    rng = np.random.default_rng(0)
    n = 600
    shape, hue, size = (rng.integers(0, m, n) for m in (3, 4, 2))
    values = rng.normal(scale=0.02, size=(n, 5, 6))
    values[:, 0] += rng.normal(size=(3, 6))[shape]
    values[:, 1] += rng.normal(size=(4, 6))[hue]
    values[:, 2] = 0.0
    values[:, 3] += 2 * rng.normal(size=(2, 6))[size]
    values[:, 4] += rng.normal(scale=0.5, size=(n, 6))
    splits = np.repeat([0, 1, 2], [360, 120, 120])
    return make_codes(values, splits, shape=shape, hue=hue, size=size)


class Rounding(Clusterer):
    """Clusters are the whole numbers nearest to the first dimension, noise what is far from all.

    Args:
        reach: Largest distance from a whole number.
        shift: Added to the number of a cluster, to be undone by whoever numbers them anew.
    """

    def __init__(self, reach=0.3, shift=0):
        self.reach = reach
        self.shift = shift

    def fit(self, points):
        self.fitted = points
        return self.predict(points)

    def predict(self, points):
        nearest = np.rint(points[:, 0]).astype(np.int64)
        distance = np.abs(points[:, 0] - nearest)
        labels = np.where(distance <= self.reach, nearest + self.shift, -1)
        return labels, np.where(labels < 0, 0.0, 1.0 - distance)


@pytest.fixture
def rounding():
    return Rounding


@pytest.fixture
def line(make_codes):
    """Codes of one subspace of one dimension, with the given positions and splits."""

    def make(positions, splits):
        values = np.asarray(positions, dtype=np.float32)[:, None, None]
        return make_codes(values, splits, principal=np.zeros(len(values)))

    return make
