import numpy as np
import pytest
from scipy.linalg import sqrtm

from detaux_pl.models.erasure import fit_erasure

N, D, C = 300, 12, 4


def samples(seed=0, n=N, effect=2.0):
    """Correlated features, whose class means differ, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(C, size=n)
    noise = rng.normal(size=(n, D)) * np.logspace(0, -1.5, D)
    means = effect * rng.normal(size=(C, D))
    return (noise + means[labels]) @ rng.normal(size=(D, D)) + 5.0, labels


def naive(features, labels, shrinkage):
    """The definition, dense: x - W^+ U U^T W (x - mean) with W = S^(-1/2), by matrix functions."""
    kept = labels >= 0
    covariance = np.cov(features.T, bias=True)
    covariance += shrinkage * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whiten = np.linalg.inv(sqrtm(covariance).real)
    one_hot = (labels[kept, None] == np.unique(labels[kept])).astype(float)
    cross = np.zeros((features.shape[1], one_hot.shape[1]))
    mean = features[kept].mean(axis=0)
    for x, z in zip(features[kept], one_hot, strict=True):
        cross += np.outer(x - mean, z - one_hot.mean(axis=0)) / kept.sum()
    left, singular, _ = np.linalg.svd(whiten @ cross, full_matrices=False)
    left = left[:, singular > 1e-9 * singular.max()]
    projection = np.linalg.inv(whiten) @ left @ left.T @ whiten
    centre = features.mean(axis=0)
    return np.stack([x - projection @ (x - centre) for x in features])


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
@pytest.mark.parametrize("unlabelled", [0, 100])
def test_it_is_the_closed_form_of_leace(shrinkage, unlabelled):
    features, labels = samples()
    labels[:unlabelled] = -1
    erasure = fit_erasure(features, labels, shrinkage)
    expected = naive(features, labels, shrinkage)
    assert erasure.directions.shape == (D, C - 1)
    assert np.abs(erasure(features) - expected).max() < 1e-9 * np.abs(features).max()
    identity = np.eye(C - 1)
    np.testing.assert_allclose(erasure.readout @ erasure.directions, identity, atol=1e-9)


def test_afterwards_least_squares_finds_a_constant():
    features, labels = samples()
    erased = fit_erasure(features, labels)(features)
    one_hot = np.eye(C)[labels]

    def told(x):
        design = np.column_stack([x, np.ones(N)])
        return design @ np.linalg.lstsq(design, one_hot, rcond=1e-9)[0]

    assert np.abs(told(features) - one_hot.mean(axis=0)).max() > 0.5
    assert np.abs(told(erased) - one_hot.mean(axis=0)).max() < 1e-9


def test_it_changes_less_than_an_orthogonal_projection():
    features, labels = samples()
    means = np.stack([features[labels == c].mean(axis=0) for c in range(C)])
    directions, _ = np.linalg.qr((means[1:] - means[0]).T)
    centred = features - features.mean(axis=0)
    change = np.square(features - fit_erasure(features, labels)(features)).sum()
    assert change < np.square(centred @ directions @ directions.T).sum()


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
def test_features_that_are_constant_stay_so_to_the_bit(shrinkage):
    features, labels = samples()
    padded = np.insert(features, 3, 0.0, axis=1)
    padded = np.column_stack([padded, np.full(N, 0.1)])
    erased = fit_erasure(padded, labels, shrinkage)(padded)
    np.testing.assert_array_equal(erased[:, [3, -1]], padded[:, [3, -1]])
    live = np.delete(erased, [3, D + 1], axis=1)
    np.testing.assert_allclose(live, fit_erasure(features, labels, shrinkage)(features), atol=1e-9)


def test_rank_is_of_what_classes_tell():
    features, labels = samples()
    assert fit_erasure(features, labels).directions.shape[1] == C - 1
    assert fit_erasure(features, 7 * labels).directions.shape[1] == C - 1  # absent classes
    assert fit_erasure(features, np.zeros(N, dtype=int)).directions.shape[1] == 0
    # Means of three classes on one line, of equal number: one direction, not two.
    line = np.tile([0, 1, 2], 40)
    rng = np.random.default_rng(0)
    noise = np.repeat(rng.normal(size=(40, D)), 3, axis=0)
    noise[:, 0] += line
    assert fit_erasure(noise, line).directions.shape[1] == 1
    # More classes than dimensions.
    assert fit_erasure(features[:, :2], labels).directions.shape[1] == 2


def test_shrinkage_erases_no_less_of_the_class_means():
    features, labels = samples(n=40)
    for shrinkage in (0.01, 0.1, 1.0):
        erased = fit_erasure(features, labels, shrinkage)(features)
        means = np.stack([erased[labels == c].mean(axis=0) for c in range(C)])
        assert np.abs(means - erased.mean(axis=0)).max() < 1e-9 * np.abs(features).max()


def test_fewer_rows_than_dimensions():
    features, labels = samples(n=8)
    erased = fit_erasure(features, labels)(features)
    assert np.isfinite(erased).all()
    assert np.isfinite(fit_erasure(features, labels, 0.1)(features)).all()
    means = [erased[labels == c].mean(axis=0) for c in np.unique(labels)]
    assert np.ptp(means, axis=0).max() < 1e-9 * np.abs(features).max()


def test_features_of_less_rank_than_dimensions():
    features, labels = samples()
    spread = np.linalg.qr(np.random.default_rng(2).normal(size=(40, D)))[0]
    erased = fit_erasure(features @ spread.T, labels)(features @ spread.T)
    np.testing.assert_allclose(erased @ spread, fit_erasure(features, labels)(features), atol=1e-9)
    # Of these nothing is left to erase; numpy's gesdd does not converge on some of their kind.
    again = fit_erasure(erased, labels)
    np.testing.assert_allclose(again(erased), erased, atol=1e-7)


def test_it_folds_into_the_layer_that_follows():
    features, labels = samples()
    erasure = fit_erasure(features, labels, 0.05)
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(3, D)), rng.normal(size=3)
    folded, offset = erasure.fold(weight, bias)
    np.testing.assert_allclose(
        features @ folded.T + offset, erasure(features) @ weight.T + bias, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(3, dtype=int)}, r"labels \(3,\): give \(n, d\) and \(n,\)"),
        ({"labels": np.full(N, -1)}, "no row has a label"),
        ({"features": np.full((N, 2), np.nan)}, "NaN or infinite"),
        ({"shrinkage": -0.1}, "shrinkage is -0.1: give a number from 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    features, labels = samples()
    given = {"features": features, "labels": labels} | change
    with pytest.raises(ValueError, match=message):
        fit_erasure(**given)
