"""Ward: the partitions of other implementations, and the graph that many points are merged on."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score
from sklearn.neighbors import kneighbors_graph

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cluster import ward
from detaux_pl.cluster.ward import Ward


def blobs(n, centres=6, dims=5, apart=3.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, centres, n)
    return apart * rng.normal(size=(centres, dims))[truth] + rng.normal(size=(n, dims)), truth


@pytest.mark.parametrize("apart", [0.0, 0.7, 3.0], ids=["one blob", "blobs that touch", "blobs"])
@pytest.mark.parametrize("n_clusters", [2, 3, 8, 40, 300])
def test_clusters_are_those_of_scipy_and_scikit_learn(n_clusters, apart):
    points = 1e3 + blobs(300, apart=apart)[0]
    labels, _ = Ward(n_clusters).fit(points)
    assert np.unique(labels).tolist() == list(range(n_clusters))
    theirs = fcluster(linkage(points, "ward"), n_clusters, "maxclust")
    assert adjusted_rand_score(theirs, labels) == 1.0
    assert adjusted_rand_score(AgglomerativeClustering(n_clusters).fit_predict(points), labels) == 1


def test_points_that_are_alike_count_as_often_as_they_are_there():
    points, truth = np.repeat(blobs(40)[0], np.arange(40) % 4 + 1, axis=0), np.arange(100)
    points = np.random.default_rng(1).permutation(points[truth])
    theirs = fcluster(linkage(points, "ward"), 5, "maxclust")
    assert adjusted_rand_score(theirs, Ward(5).fit(points)[0]) == 1.0
    # 1, 2 and 4 in a row: the pair that is many times there loses more than the pair further apart.
    row = np.repeat([0.0, 1.0, 2.2], [50, 50, 1])[:, None]
    assert Ward(2).fit(row)[0][[0, 50, 100]].tolist() == [0, 1, 1]


def test_strength_is_that_of_the_own_mean_and_new_points_go_to_the_nearest():
    points = blobs(300, apart=0.7)[0]
    clusterer = Ward(6)
    labels, strength = clusterer.fit(points)
    means = np.stack([points[labels == k].mean(axis=0) for k in range(6)])
    away = np.linalg.norm(points[:, None] - means, axis=2)
    own, rest = away[np.arange(300), labels], np.sort(away, axis=1)
    expected = np.where(own == rest[:, 0], 1 - rest[:, 0] / rest[:, 1], 0.0)
    np.testing.assert_allclose(strength, expected, atol=1e-9)
    assert 0 < np.count_nonzero(strength == 0) < 100, "those that touch are nearer to another mean"
    new = blobs(50, apart=0.7, seed=1)[0]
    told, _ = clusterer.predict(new)
    assert (told == np.linalg.norm(new[:, None] - means, axis=2).argmin(axis=1)).all()


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_the_unit_of_the_points_does_not_count(scale):
    points = blobs(100)[0]
    assert Ward(4).fit(scale * points)[0].tolist() == Ward(4).fit(points)[0].tolist()


def test_the_order_of_the_points_does_not_count():
    points, order = blobs(200, apart=0.7)[0], np.random.default_rng(0).permutation(200)
    labels, again = Ward(7).fit(points)[0], Ward(7).fit(points[order])[0]
    assert adjusted_rand_score(labels[order], again) == 1.0


@pytest.fixture
def on_a_graph(monkeypatch):
    """Merge more than 50 points along the graph."""
    monkeypatch.setattr(ward, "_EXACT", 50)


@pytest.mark.parametrize("dims", [5, 50])
def test_the_graph_finds_the_same_clusters(on_a_graph, monkeypatch, dims):
    points, truth = blobs(1500, centres=12, dims=dims, apart=5.0 if dims == 5 else 0.9)
    labels, _ = Ward(12).fit(points)
    assert all(map(np.array_equal, Ward(12).fit(points), Ward(12).fit(points)))
    monkeypatch.setattr(ward, "_EXACT", 2000)
    exact, _ = Ward(12).fit(points)
    assert adjusted_mutual_info_score(exact, labels) > 0.95
    assert adjusted_mutual_info_score(truth, labels) > 0.95


def test_a_graph_of_many_parts_is_linked_without_a_warning(on_a_graph):
    # 60 places far from each other, of 20 points each: no neighbour is of another place.
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.normal(size=(20, 3)), 50 + rng.normal(size=(40, 3))])
    points = np.repeat(places, 20, axis=0) + rng.normal(scale=1e-3, size=(1200, 3))
    assert connected_components(kneighbors_graph(points, 10))[0] == 60
    labels, _ = Ward(2).fit(points)
    assert (labels == labels[0]).tolist() == [True] * 400 + [False] * 800
    labels, _ = Ward(60).fit(points)
    assert adjusted_rand_score(np.repeat(np.arange(60), 20), labels) == 1.0


def test_a_graph_of_points_that_are_alike_is_linked(on_a_graph):
    points = np.repeat(np.arange(100.0)[:, None], 30, axis=0) ** 2
    labels, strength = Ward(4, neighbors=3).fit(points)
    assert np.unique(labels).size == 4
    assert (np.diff(labels[::30]) != 0).sum() == 3, "each is an interval"
    assert np.isfinite(strength).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_clusters": 1}, "^n_clusters is 1: a task has at least 2 clusters"),
        ({"neighbors": 0}, "^neighbors is 0: give at least 1"),
    ],
)
def test_refuses_settings_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Ward(**arguments)


@pytest.mark.parametrize("points", [np.arange(5.0), np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], 9)])
def test_refuses_fewer_different_points_than_clusters(points):
    message = f"^Ward with n_clusters 6 .* but gets 5 among {len(points)}: lower n_clusters"
    with pytest.raises(UserError, match=message):
        Ward(6).fit(points[:, None])


def test_one_tree_serves_all_numbers_of_clusters(monkeypatch):
    points = np.random.default_rng(5).normal(size=(120, 4))
    expected = {k: Ward(n_clusters=k).fit(points)[0] for k in (2, 5, 9)}
    grown = []
    monkeypatch.setattr(ward, "_LAST", {})
    grow = ward._grow
    monkeypatch.setattr(ward, "_grow", lambda *given: grown.append(1) or grow(*given))
    for k, labels in expected.items():
        np.testing.assert_array_equal(Ward(n_clusters=k).fit(points)[0], labels)
    assert len(grown) == 1
    other, _ = Ward(n_clusters=2).fit(points[:60])
    assert len(grown) == 2
    assert len(np.unique(other)) == 2
