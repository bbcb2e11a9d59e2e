"""What holds for every clusterer, those of later files included, made as its config says."""

from __future__ import annotations

import json
import random
import tracemalloc

import numpy as np
import pytest

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cluster.base import NOISE, Clusterer
from tests.found import built, check_refusal, every, variants

N, DIMS, STARTS = 160, 6, 3
CENTRES = 3 * np.random.default_rng(0).normal(size=(4, DIMS // 2))


def blobs(n=N, seed=1):
    """Points of four clusters far from each other in half of the dimensions, and noise."""
    rng = np.random.default_rng(seed)
    near = CENTRES[rng.integers(0, 4, n)] + rng.normal(scale=0.2, size=(n, DIMS // 2))
    return np.concatenate([near, rng.normal(scale=0.5, size=(n, DIMS // 2))], axis=1)


def make(cls):
    """A new one with the arguments of its config; if it takes several starts, few of them."""
    shipped, *_ = variants(Clusterer, cls).values()
    given = {name: value for name, value in shipped.settings.items() if name != "class"}
    if "n_init" in given:
        given["n_init"] = min(given["n_init"], STARTS)
    return cls(**given)


@pytest.fixture(scope="module")
def fitted():
    """Each clusterer after a fit to `blobs()`, with what that said; not to be fitted again."""
    known = {}

    def fit(cls):
        if cls not in known:
            clusterer = make(cls)
            known[cls] = clusterer, clusterer.fit(blobs())
        return known[cls]

    return fit


def check(labels, strength, n):
    """Labels from 0 or noise, and strengths in [0, 1], none of noise."""
    assert labels.shape == strength.shape == (n,)
    assert labels.dtype == np.int64
    assert labels.min(initial=0) >= NOISE
    assert strength.dtype == np.float64
    assert strength.min(initial=0) >= 0
    assert strength.max(initial=0) <= 1
    assert not strength[labels == NOISE].any()


@every(Clusterer)
def test_labels_are_numbered_from_zero_and_strengths_are_shares(cls, fitted):
    clusterer, found = fitted(cls)
    check(*found, N)
    clusters = np.unique(found[0][found[0] != NOISE])
    assert clusters.tolist() == list(range(len(clusters)))
    assert len(clusters) >= 2, "four blobs far apart are one cluster to it"
    new = clusterer.predict(blobs(90, seed=2))
    check(*new, 90)
    assert set(new[0]) <= {NOISE, *clusters}


@every(Clusterer)
def test_the_fitted_points_are_predicted_to_be_where_they_are(cls, fitted):
    clusterer, (labels, _) = fitted(cls)
    again, _ = clusterer.predict(blobs())
    both = (labels != NOISE) & (again != NOISE)
    assert (labels[both] == again[both]).all()
    assert both.sum() >= 0.95 * np.count_nonzero(labels != NOISE)


@every(Clusterer)
def test_a_point_is_predicted_whatever_comes_with_it_and_in_what_order(cls, fitted):
    clusterer, _ = fitted(cls)
    points = blobs(50, seed=3)
    whole, order = clusterer.predict(points), np.random.default_rng(0).permutation(50)
    shuffled, alone = clusterer.predict(points[order]), clusterer.predict(points[:1])
    for one, other, first in zip(whole, shuffled, alone, strict=True):
        np.testing.assert_allclose(other, one[order], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(first, one[:1], rtol=1e-9, atol=1e-12)
    check(*clusterer.predict(points[:0]), 0)


@every(Clusterer)
def test_nothing_but_points_and_arguments_counts(cls, fitted):
    points = blobs()
    kept = points.copy()
    random.seed(9)
    np.random.seed(9)  # noqa: NPY002  which some packages draw from
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    clusterer = make(cls)
    found = clusterer.fit(points)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert all(map(np.array_equal, found, fitted(cls)[1]))
    assert np.array_equal(points, kept)
    # A fit forgets the one before: nothing of the blobs is left after other points.
    clusterer.fit(blobs(seed=4) + 50)
    assert all(map(np.array_equal, clusterer.fit(points), found))


@every(Clusterer)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_half_and_single_precision_are_computed_in_double(cls, dtype):
    points = blobs().astype(dtype)
    expected = make(cls)
    fit = expected.fit(points.astype(np.float64))
    given = make(cls)
    # Rows and columns of a larger array, as a subspace of the codes is.
    view = np.zeros((N, 2, 2 * DIMS), dtype)[:, 1, ::2]
    view[:] = points
    assert all(map(np.array_equal, given.fit(view), fit))
    assert all(map(np.array_equal, given.predict(view), expected.predict(points.astype(float))))


@every(Clusterer)
@pytest.mark.parametrize("kind", ["one blob", "one place", "two places", "one point"])
def test_points_without_clusters_are_labelled_or_refused(cls, kind):
    points = {
        "one blob": np.random.default_rng(0).normal(size=(N, DIMS)),
        "one place": np.ones((N, DIMS)),
        "two places": np.repeat([[0.0], [1.0]], N // 2, axis=0) * np.ones(DIMS),
        "one point": np.ones((1, DIMS)),
    }[kind]
    try:
        check(*make(cls).fit(points), len(points))
    except UserError as error:
        check_refusal(error, cls.__name__)


@every(Clusterer)
def test_prediction_needs_a_fit(cls):
    try:
        make(cls).predict(blobs())
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    else:
        said = "nothing"
    expected = f"UserError: {cls.__name__} has no clusters yet: call fit first."
    assert said == expected, "begin `fit` with `points = self.to_fit(points)`, `predict` likewise"


@every(Clusterer)
def test_points_that_are_none_are_refused(cls, fitted):
    clusterer, _ = fitted(cls)
    broken = blobs()
    broken[7, 2], broken[9, 0] = np.nan, np.inf
    for points, what in (
        (broken, "gets 2 points that are NaN or infinite, the first in row 7"),
        (blobs()[:, 0], r"gets points of shape \(160,\): give an array \(n, d\)"),
        (blobs()[:, None], r"gets points of shape \(160, 1, 6\)"),
    ):
        for method in (make(cls).fit, clusterer.predict):
            with pytest.raises(UserError, match=f"^{cls.__name__} {what}"):
                method(points)
    with pytest.raises(UserError, match=rf"^{cls.__name__} gets points of shape \(0, 6\): give at"):
        make(cls).fit(blobs()[:0])
    with pytest.raises(UserError, match=f"^{cls.__name__} was fitted on points of 6 dim.* of 5:"):
        clusterer.predict(blobs()[:, :5])


@pytest.mark.slow
@every(Clusterer)
def test_many_points_take_memory_that_grows_with_their_number_alone(cls, fitted):
    clusterer, _ = fitted(cls)
    many = blobs(20_000, seed=5)
    assert _peak(lambda: clusterer.predict(many)) < 40e6  # 2 kB a point; all pairs would be 3.2 GB
    few, twice = (_peak(lambda n=n: make(cls).fit(many[:n])) for n in (600, 1200))
    assert twice < 3 * few, "all pairs of points would be four times as many"


def _peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@every(Clusterer)
def test_its_settings_make_it_again(cls):
    clusterer = make(cls)
    told = json.loads(json.dumps(clusterer.settings))
    assert told.pop("class") == cls.__name__
    again = built(Clusterer, cls, told)
    assert again.settings == clusterer.settings
    clusterer.fit(blobs())
    assert clusterer.settings == again.settings
