import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cluster import hdbscan as module
from detaux_pl.cluster.hdbscan import HDBSCAN


def blobs(n, seed, centres=4, dims=5):
    truth = np.random.default_rng([seed, 1]).integers(0, centres, n)
    where = 3 * np.random.default_rng(0).normal(size=(centres, dims))
    return where[truth] + np.random.default_rng(seed).normal(scale=0.2, size=(n, dims)), truth


def test_recovers_blobs_and_predicts_new_points():
    clusterer = HDBSCAN(min_cluster_size=20, min_samples=5)
    for points, (labels, strengths) in (
        (data := blobs(400, 1), clusterer.fit(data[0])),
        (data := blobs(150, 2), clusterer.predict(data[0])),
    ):
        inside = labels >= 0
        assert inside.mean() > 0.8
        assert adjusted_rand_score(points[1][inside], labels[inside]) == 1.0
        assert (strengths[~inside] == 0).all()
        assert strengths.min() >= 0
        assert strengths.max() <= 1


def test_prediction_in_parts_is_the_same(monkeypatch):
    clusterer = HDBSCAN(20, 5)
    clusterer.fit(blobs(400, 1)[0])
    new = blobs(50, 2)[0]
    whole = clusterer.predict(new)
    monkeypatch.setattr(module, "_NEIGHBOURS", 70)
    assert all(map(np.array_equal, whole, clusterer.predict(new)))


def test_far_points_are_predicted_as_noise():
    clusterer = HDBSCAN(20, 5)
    clusterer.fit(blobs(400, 1)[0])
    assert clusterer.predict(np.full((3, 5), 50.0))[0].tolist() == [-1, -1, -1]


def test_a_single_blob_is_all_noise():
    labels, strengths = HDBSCAN().fit(blobs(1000, 0, centres=1, dims=8)[0])
    assert (labels == -1).all()
    assert (strengths == 0).all()


def test_few_samples_split_a_single_blob():
    points = blobs(1000, 0, centres=1, dims=2)[0]
    labels, _ = HDBSCAN(0.01, min_samples=1).fit(points)
    assert labels.max() + 1 >= 2


@pytest.mark.parametrize(("n", "size"), [(1600, 16), (1699, 16), (1700, 17), (100, 2)])
def test_share_is_of_the_fitted_points_rounded_down(n, size):
    clusterer = HDBSCAN(0.01)
    clusterer.fit(blobs(n, 0)[0])
    assert clusterer._model.min_cluster_size == size


@pytest.mark.parametrize("size", [0, 1, 0.0, 1.0, -0.1, 20.0, float("nan")])
def test_refuses_a_size_that_is_neither_share_nor_number(size):
    with pytest.raises(ValueError, match="min_cluster_size"):
        HDBSCAN(size)


def test_refuses_min_samples_below_one():
    with pytest.raises(ValueError, match="min_samples is 0"):
        HDBSCAN(min_samples=0)


def test_refuses_fewer_points_than_it_compares_with():
    with pytest.raises(UserError, match="needs at least 60 points, but gets 59"):
        HDBSCAN(min_cluster_size=5, min_samples=30).fit(blobs(59, 0)[0])


def test_settings_are_the_arguments():
    assert HDBSCAN(0.02, 5).settings == {
        "class": "HDBSCAN",
        "min_cluster_size": 0.02,
        "min_samples": 5,
        "cluster_selection_method": "eom",
    }
