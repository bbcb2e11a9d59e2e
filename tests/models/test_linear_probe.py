import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from detaux_pl.models.linear_probe import deal_folds, fit_linear_probe


def samples(n=60, d=8, n_classes=3, effect=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    means = np.random.default_rng(99).normal(size=(n_classes, d))
    return rng.normal(size=(n, d)) + effect * means[labels] + 2.0, labels


def naive(features, labels, n_classes, strength):
    """Minimise |weight|^2 / 2 + strength * sum of the cross-entropies, for features of norm 1."""
    centred = features - features.mean(axis=0)
    x = centred / np.sqrt(np.square(centred).sum(axis=1).mean())

    def loss(values):
        weight, bias = np.split(values, [n_classes * x.shape[1]])
        logits = x @ weight.reshape(n_classes, -1).T + bias
        told = logits[np.arange(len(x)), labels] - np.log(np.exp(logits).sum(axis=1))
        return weight @ weight / 2 - strength * told.sum()

    found = minimize(loss, np.zeros(n_classes * (x.shape[1] + 1)), tol=1e-9).x
    weight, bias = np.split(found, [n_classes * x.shape[1]])
    logits = x @ weight.reshape(n_classes, -1).T + bias
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("d", [4, 80])
def test_it_minimises_the_loss_in_its_docstring(n_classes, d):
    features, labels = samples(n=30, d=min(d, 4), n_classes=n_classes)
    if d > 4:  # more dimensions than rows
        features = features @ np.random.default_rng(1).normal(size=(4, d))
    probe = fit_linear_probe(features, labels, n_classes, strengths=[10.0])
    if d == 4:
        expected = naive(features, labels, n_classes, 10.0)
        np.testing.assert_allclose(probe.probabilities(features), expected, atol=2e-3)
    assert (probe.probabilities(features).argmax(axis=1) == labels).mean() > 0.7
    np.testing.assert_allclose(probe.weight.sum(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_it_is_the_logistic_regression_of_scikit_learn(n_classes):
    features, labels = samples(n=80, d=12, n_classes=n_classes)
    centred = features - features.mean(axis=0)
    x = centred / np.sqrt(np.square(centred).sum(axis=1).mean())
    # Of two classes scikit-learn has the difference of their weights, which is penalised twice.
    theirs = LogisticRegression(C=100.0 * (2 if n_classes == 2 else 1), tol=1e-10, max_iter=10_000)
    expected = theirs.fit(x, labels).predict_proba(x)
    probe = fit_linear_probe(features, labels, n_classes, strengths=[100.0])
    np.testing.assert_allclose(probe.probabilities(features), expected, atol=1e-4)


def test_scale_place_and_turn_of_the_features_do_not_matter():
    features, labels = samples()
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))
    first = fit_linear_probe(features, labels, 3).probabilities(features)
    other = 1e3 * features @ turn - 70.0
    second = fit_linear_probe(other, labels, 3).probabilities(other)
    np.testing.assert_allclose(first, second, atol=2e-3)
    # Features that never move change nothing, where standardising would.
    padded = np.column_stack([features, np.zeros((len(features), 50))])
    third = fit_linear_probe(padded, labels, 3)
    np.testing.assert_allclose(third.probabilities(padded), first, atol=2e-3)
    assert not third.weight[:, 8:].any()


def test_the_strength_follows_the_signal():
    weak, labels = samples(effect=0.0, d=40)
    strong, _ = samples(effect=3.0, d=40)
    guess = fit_linear_probe(weak, labels, 3).probabilities(samples(effect=0.0, d=40, seed=1)[0])
    sure = fit_linear_probe(strong, labels, 3).probabilities(samples(effect=3.0, d=40, seed=1)[0])
    assert guess.max() < 0.7
    assert np.median(sure.max(axis=1)) > 0.99


def test_classes_without_a_row_are_next_to_impossible_and_finite():
    features, labels = samples()
    probe = fit_linear_probe(features, 2 * labels, n_classes=7)
    far = 100 * np.random.default_rng(3).normal(size=(50, 8))
    assert probe.weight.shape == (7, 8)
    assert probe.probabilities(far)[:, [1, 3, 5, 6]].max() <= np.exp(-20)
    told = probe.log_likelihood(features, np.full(len(features), 5))
    assert np.isfinite(told).all()
    assert (told < -20).all()
    np.testing.assert_allclose(probe.probabilities(far).sum(axis=1), 1)


def test_one_class_and_constant_features_give_the_shares():
    features, labels = samples()
    one = fit_linear_probe(features, np.ones(60, dtype=int), n_classes=2)
    assert one.probabilities(features)[:, 1].min() > 1 - 1e-8
    flat = fit_linear_probe(np.ones((60, 8)), labels, n_classes=3)
    np.testing.assert_allclose(flat.probabilities(features), 1 / 3, atol=1e-9)


def test_one_row_of_each_class_is_enough():
    features, labels = samples(n=3, effect=5.0)
    probe = fit_linear_probe(features, labels, 3)
    assert (probe.probabilities(features).argmax(axis=1) == labels).all()


def test_folds_are_even_in_size_and_classes():
    labels = np.repeat([0, 1, 2, 3], [5, 10, 3, 5])
    fold = deal_folds(labels, 5, seed=4)
    assert sorted(np.bincount(fold)) == [4, 4, 5, 5, 5]
    for c in range(4):
        assert np.ptp(np.bincount(fold[labels == c], minlength=5)) <= 1
    assert (fold != deal_folds(labels, 5, seed=5)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(3, dtype=int)}, "features have shape"),
        ({"n_classes": 2}, "labels go from 0 to 2: give 0 to 1"),
        ({"strengths": [0.0, 1.0]}, "give numbers above 0"),
        ({"folds": 1}, "folds is 1: give at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    features, labels = samples()
    given = {"features": features, "labels": labels, "n_classes": 3} | change
    with pytest.raises(ValueError, match=message):
        fit_linear_probe(**given)
