"""K-means, mean shift and Nr-Kmeans: what finds centres."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cluster import base
from detaux_pl.cluster.base import nearest_centre
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.kmeans import KMeans
from detaux_pl.cluster.mean_shift import MeanShift
from detaux_pl.cluster.nr_kmeans import NrKMeans


def blobs(n, seed, centres=4, dims=5):
    truth = np.random.default_rng([seed, 1]).integers(0, centres, n)
    where = 3 * np.random.default_rng(0).normal(size=(centres, dims))
    return where[truth] + np.random.default_rng(seed).normal(scale=0.2, size=(n, dims)), truth


def two_clusterings(n, seed, sizes=(3, 4)):
    """Points with two independent clusterings, each in two of four mixed dimensions."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    truths = [rng.integers(0, size, n) for size in sizes]
    parts = [3 * fixed.normal(size=(size, 2)) for size in sizes]
    points = np.concatenate(
        [part[truth] for part, truth in zip(parts, truths, strict=True)], axis=1
    )
    mix = np.linalg.qr(fixed.normal(size=(4, 4)))[0]
    return (points + rng.normal(scale=0.2, size=points.shape)) @ mix, *truths


def test_nearest_centre_is_a_loop_over_points(monkeypatch):
    rng = np.random.default_rng(0)
    points, centres = rng.normal(size=(50, 3)), rng.normal(size=(4, 3))
    points[0] = centres[2]
    labels, strength = nearest_centre(points, centres)
    for point, label, s in zip(points, labels, strength, strict=True):
        lengths = [sum((x - y) ** 2 for x, y in zip(point, c, strict=True)) ** 0.5 for c in centres]
        first, second = sorted(lengths)[:2]
        assert lengths[label] == first
        assert s == pytest.approx((second - first) / second, rel=1e-9)
    assert strength[0] == 1.0
    monkeypatch.setattr(base, "_CHUNK", 12)
    assert all(map(np.array_equal, nearest_centre(points, centres), (labels, strength)))


def test_strength_of_one_centre_is_one_and_of_equal_ones_zero():
    points = np.array([[0.0], [2.0]])
    assert [x.tolist() for x in nearest_centre(points, points[:1])] == [[0, 0], [1.0, 1.0]]
    assert nearest_centre(points, np.zeros((2, 1)))[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "clusterer",
    [KMeans(4), KMeans(4, "random"), MeanShift(quantile=0.2), MeanShift(1.0), NrKMeans(4, [1])],
    ids=["k-means++", "random", "estimated", "bandwidth", "nr"],
)
def test_recovers_blobs_and_predicts_new_points(clusterer):
    for (_, truth), (labels, strength) in (
        (data := blobs(300, 1), clusterer.fit(data[0])),
        (data := blobs(150, 2), clusterer.predict(data[0])),
    ):
        assert adjusted_rand_score(truth, labels) == 1.0
        assert strength.min() > 0.2
        assert strength.max() <= 1
    again, found = clusterer.fit(blobs(300, 1)[0]), clusterer.predict(blobs(300, 1)[0])
    assert all(map(np.array_equal, again, found))


def test_nr_kmeans_finds_the_clustering_that_it_is_asked_for():
    points, three, four = two_clusterings(150, 1)
    new, new_three, new_four = two_clusterings(60, 2)
    for wanted, other, truths, scale in (
        (3, 4, (three, new_three), 1e-4),
        (4, 3, (four, new_four), 1e4),
    ):
        clusterer = NrKMeans(wanted, [other], n_init=15)
        labels, _ = clusterer.fit(scale * points)
        assert adjusted_rand_score(truths[0], labels) == 1.0
        assert adjusted_rand_score(truths[1], clusterer.predict(scale * new)[0]) == 1.0
    # Which k-means on all dimensions does not.
    assert adjusted_rand_score(three, KMeans(3).fit(points)[0]) < 0.7


def test_nr_kmeans_of_codes_finds_what_the_principal_classes_are_not(make_codes):
    points, three, four = two_clusterings(150, 3)
    codes = make_codes(points[:, None], None, None, principal=four, hidden=three)
    (found,) = Discovery(NrKMeans(3, [4]))(codes)
    assert adjusted_rand_score(three, found.labels) == 1.0
    assert not found.is_noise.any()
    assert found.meta["clusterer"] == {
        "class": "NrKMeans", "n_clusters": 3, "n_other": [4], "n_init": 30, "max_iter": 300,
        "seed": 0,
    }  # fmt: skip


def test_mean_shift_fuses_clusters_smaller_than_its_quantile():
    points = blobs(400, 0, centres=8)[0]
    found = [np.unique(MeanShift(quantile=q).fit(points)[0]).size for q in (0.1, 0.6)]
    assert found == [8, 1]


def test_mean_shift_leaves_small_peaks_out():
    points = np.concatenate([blobs(100, 0, centres=2, dims=2)[0], [[50.0, 50.0]]])
    labels = [MeanShift(1.0, min_bin_freq=k).fit(points)[0] for k in (1, 2)]
    assert [np.unique(each).size for each in labels] == [3, 2]


def test_mean_shift_starts_near_points_in_many_dimensions_too():
    points, truth = blobs(60, 0, dims=500)
    assert adjusted_rand_score(truth, MeanShift(quantile=0.2).fit(points)[0]) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KMeans(0), "^n_clusters is 0: a task has at least 2 clusters"),
        (lambda: KMeans(1), "^n_clusters is 1"),
        (lambda: KMeans(2, n_init=0), "^n_init is 0"),
        (lambda: MeanShift(bandwidth=0.0), "^bandwidth is 0.0: it is positive"),
        (lambda: MeanShift(quantile=0.0), "^quantile is 0.0"),
        (lambda: MeanShift(quantile=1.1), "^quantile is 1.1"),
        (lambda: MeanShift(min_bin_freq=0), "^min_bin_freq is 0"),
        (lambda: NrKMeans(1, [4]), "^n_clusters is 1"),
        (lambda: NrKMeans(3, []), r"^n_other is \[\]"),
        (lambda: NrKMeans(3, [0]), r"^n_other is \[0\]"),
        (lambda: NrKMeans(3, [1, 4]), r"only the last may be 1"),
        (lambda: NrKMeans(3, [4], n_init=0), "^n_init is 0 and max_iter is 300"),
    ],
)
def test_refuses_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("clusterer", "points", "message"),
    [
        (KMeans(6), np.arange(5.0)[:, None], "KMeans with n_clusters 6 .* among 5: lower"),
        (KMeans(3), np.repeat([0.0, 1.0], 4)[:, None], "needs as many different points"),
        (
            MeanShift(),
            np.repeat([0.0, 1.0], 20)[:, None],
            "estimates a bandwidth of 0: points are alike to 10%",
        ),
        (
            MeanShift(1e-3, min_bin_freq=5),
            np.arange(9.0)[:, None],
            "bandwidth 0.001 finds no cell with 5 points",
        ),
        (NrKMeans(2, [6]), np.ones((5, 2)), r"2 clusterings of \[2, 6\] clusters, but gets 5"),
        (NrKMeans(2, [3, 1]), np.ones((9, 2)), "gets 9 points of 2 dimensions"),
    ],
)
def test_refuses_points_that_are_too_few(clusterer, points, message):
    with pytest.raises(UserError, match=message) as caught:
        clusterer.fit(points)
    assert "\n" not in str(caught.value)


def test_a_missing_clustpy_is_one_line(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "detaux_pl.cluster.nr_kmeans.find_spec",
        lambda name: None if name == "clustpy" else find(name),
    )
    with pytest.raises(ValueError, match=r'pip install "detaux_pl\[clustpy\]"'):
        NrKMeans(3, [4])


def test_clusterers_import_nothing_heavy():
    names = "kmeans", "mean_shift", "nr_kmeans", "ward"
    imports = "; ".join(f"import detaux_pl.cluster.{name}" for name in names)
    code = f"import sys; {imports}; print({{'sklearn', 'scipy', 'clustpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
