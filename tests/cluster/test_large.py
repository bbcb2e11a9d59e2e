"""Codes that are too many to be held, sorted or compared all at once."""

import tracemalloc

import numpy as np
import pytest
from hdbscan import approximate_predict
from sklearn.metrics import adjusted_rand_score

from detaux_pl.artifacts import labels as labels_module
from detaux_pl.artifacts.codes import Codes
from detaux_pl.cluster import agreement as agreement_module
from detaux_pl.cluster import points as points_module
from detaux_pl.cluster import reachability as reachability_module
from detaux_pl.cluster.agreement import agreement, some_rows
from detaux_pl.cluster.candidates import Selection, propose
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.hdbscan import HDBSCAN
from detaux_pl.cluster.kmeans import KMeans


@pytest.fixture
def few(monkeypatch):
    """HDBSCAN and k-means of which 200 and 300 points are many."""
    monkeypatch.setattr(HDBSCAN, "most", 200)
    monkeypatch.setattr(KMeans, "most", 300)


def overlapping(n, seed):
    rng = np.random.default_rng(seed)
    where = 2 * np.random.default_rng(0).normal(size=(5, 4))
    spread = np.array([0.1, 0.3, 0.5, 0.8, 1.2])
    truth = rng.integers(0, 5, n)
    return where[truth] + spread[truth, None] * rng.normal(size=(n, 4))


@pytest.mark.parametrize(("size", "samples", "method"), [(30, None, "eom"), (20, 5, "leaf")])
def test_many_points_are_predicted_by_the_rule_of_hdbscan(few, monkeypatch, size, samples, method):
    clusterer = HDBSCAN(size, samples, method)
    clusterer.fit(overlapping(600, 0))
    # Some in the middle, some far out, some fitted ones and some twice.
    new = np.concatenate([overlapping(500, 1), 6 * overlapping(50, 2), overlapping(600, 0)[:50]])
    new = np.concatenate([new, new[:20]])
    labels, strengths = clusterer.predict(new)
    expected = approximate_predict(clusterer._model, new)
    assert 0.02 < np.mean(labels < 0) < 0.9
    assert len(np.unique(labels)) > 3
    assert np.array_equal(labels, expected[0])
    np.testing.assert_allclose(strengths, expected[1], rtol=1e-9)
    monkeypatch.setattr(reachability_module, "_DISTANCES", 600 * 7)
    assert np.array_equal(clusterer.predict(new)[0], labels)


def test_points_far_from_0_and_points_without_clusters_are_predicted(few):
    clusterer = HDBSCAN(30)
    there = overlapping(600, 0)
    expected = clusterer.fit(there)[0], clusterer.predict(overlapping(99, 1))[0]
    assert np.array_equal(clusterer.fit(there + 1e6)[0], expected[0])
    assert np.array_equal(clusterer.predict(overlapping(99, 1) + 1e6)[0], expected[1])
    blob = np.random.default_rng(0).normal(size=(600, 4))
    assert (clusterer.fit(blob)[0] < 0).all()
    assert (clusterer.predict(blob[:9])[0] < 0).all()


@pytest.mark.parametrize("clusterer", [HDBSCAN(0.1, 5), KMeans(4, n_init=2)])
@pytest.mark.parametrize("scope", ["all", "within_class"])
def test_of_many_samples_a_random_sample_is_fitted_and_all_are_labelled(
    few, disentangled, clusterer, scope
):
    discovery = Discovery(clusterer, subspace=1, noise="nearest", scope=scope)
    fitted = discovery.fitted_rows(disentangled)
    train = disentangled.rows("train")
    assert np.isin(fitted, train).all()
    # Each of the three classes has fewer than 200 training samples.
    assert len(fitted) == (clusterer.most if scope == "all" else len(train))
    (task,) = discovery(disentangled)
    assert task.meta["n_fitted"] == len(fitted)
    if scope == "all":
        assert adjusted_rand_score(disentangled.factor("hue"), task.labels) == 1.0
        (asked,) = Discovery(clusterer, subspace=1, noise="nearest", fit_on=clusterer.most)(
            disentangled
        )
        assert np.array_equal(task.labels, asked.labels)
    (whole,) = Discovery(clusterer, subspace=1, scope=scope, fit_on=360)(disentangled)
    assert whole.meta["n_fitted"] == 360


def test_within_a_class_as_many_are_fitted_as_of_all_elsewhere(monkeypatch, disentangled):
    monkeypatch.setattr(KMeans, "most", 50)
    discovery = Discovery(KMeans(2, n_init=1), subspace=1, scope="within_class")
    fitted = discovery.fitted_rows(disentangled)
    assert np.bincount(disentangled.factor("shape")[fitted]).tolist() == [50, 50, 50]


@pytest.mark.parametrize("pca", [None, 3])
@pytest.mark.parametrize("scope", ["all", "within_class"])
@pytest.mark.parametrize("clusterer", [HDBSCAN(0.1, 5), KMeans(4, n_init=2)])
def test_labels_do_not_depend_on_the_size_of_blocks(
    few, monkeypatch, disentangled, tmp_path, clusterer, scope, pca
):
    discovery = Discovery(clusterer, subspace=1, noise="nearest", scope=scope, pca=pca)
    shares = []
    (expected,) = discovery(disentangled, shares.append)
    assert sum(shares) == pytest.approx(1.0)
    disentangled.save(tmp_path)
    mapped = Codes.load(tmp_path)
    for block in (97, 599):
        monkeypatch.setattr(points_module, "_ROWS", block)
        monkeypatch.setattr(points_module, "_CHUNK", 6 * block)
        monkeypatch.setattr(points_module, "_WHOLE", 0)
        monkeypatch.setattr(reachability_module, "_DISTANCES", 200 * block)
        (task,) = discovery(mapped)
        assert np.array_equal(task.labels, expected.labels)
        assert np.array_equal(task.is_noise, expected.is_noise)
        np.testing.assert_allclose(task.strength, expected.strength, rtol=1e-5)


def test_the_table_of_labels_is_the_same_in_blocks(monkeypatch, disentangled, tmp_path):
    (task,) = Discovery(KMeans(4, n_init=1), subspace=1)(disentangled)
    task.to_csv(tmp_path / "whole.csv")
    monkeypatch.setattr(labels_module, "_ROWS", 7)
    task.to_csv(tmp_path / "parts.csv")
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_many_labellings_are_compared_on_a_sample(monkeypatch):
    rng = np.random.default_rng(0)
    first = rng.integers(-1, 5, 4000)
    second = np.where(rng.random(4000) < 0.2, rng.integers(-1, 5, 4000), first)
    whole = agreement(first, second)
    assert some_rows(4000) == slice(None)
    monkeypatch.setattr(agreement_module, "_SAMPLES", 2000)
    rows = some_rows(4000)
    assert len(np.unique(rows)) == 2000
    assert agreement(first, second) == agreement(first[rows], second[rows])
    assert agreement(first, second) == pytest.approx(whole, abs=0.03)


def test_a_candidate_is_as_stable_on_a_sample_as_on_all(few, monkeypatch, disentangled):
    selection = Selection(halves=2)
    discovery = Discovery(KMeans(4, n_init=2), subspace=1)
    fits = []
    fit = KMeans.fit
    monkeypatch.setattr(KMeans, "fit", lambda own, p: (fits.append(len(p)), fit(own, p))[1])
    (candidate,) = propose({"codes": disentangled}, discovery, selection)
    assert fits == [300, 150, 150]
    assert candidate.stability == pytest.approx(1.0)
    assert len(candidate.task.labels) == len(disentangled.ids)


def test_memory_beside_the_codes_is_that_of_the_labels(few, monkeypatch, make_codes, tmp_path):
    rng = np.random.default_rng(0)
    n, dims = 20_000, 64
    hidden, label = rng.integers(0, 4, n), rng.integers(0, 2, n)
    values = rng.normal(scale=0.1, size=(n, 2, dims)).astype(np.float32)
    values[:, 1, 0] += hidden
    make_codes(values, np.arange(n) % 3, label=label).save(tmp_path)
    codes = Codes.load(tmp_path)
    monkeypatch.setattr(points_module, "_ROWS", 1000)
    monkeypatch.setattr(points_module, "_CHUNK", 1000 * dims)
    monkeypatch.setattr(points_module, "_WHOLE", 0)
    discovery = Discovery(KMeans(4, n_init=3), pca=5)
    fitted = discovery.fitted_rows(codes)
    discovery.label(codes, 1, fitted)  # what is imported is no part of it
    tracemalloc.start()
    try:
        task = discovery.label(codes, 1, fitted)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert adjusted_rand_score(hidden, task.labels) > 0.99
    assert peak < 100 * n  # the codes of a subspace are 512 bytes a sample in double precision
