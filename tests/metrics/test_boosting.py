import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from detaux_pl.metrics import boosting
from detaux_pl.metrics.boosting import fit_boosting, sort_columns

N_TRAIN, N_TEST = 300, 100


def levels(seed, n_codes=3):
    """Codes of a few levels each: large nodes, in which no two splits gain the same."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, 5 + 2 * k, N_TRAIN + N_TEST) for k in range(n_codes)], axis=1)


def classify(codes, n_classes, seed):
    """Classes that depend on all codes, and on chance; as many of each."""
    total = codes.sum(axis=1) + np.random.default_rng(seed).normal(size=len(codes))
    return total.argsort().argsort() * n_classes // len(codes)


def fit(codes, labels, n_classes, seed=0):
    columns = sort_columns(codes[:N_TRAIN])
    return fit_boosting(columns, labels[:N_TRAIN], n_classes, codes[N_TRAIN:], seed)


def known(codes, labels, seed=0):
    return GradientBoostingClassifier(random_state=seed).fit(codes[:N_TRAIN], labels[:N_TRAIN])


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(
    "place",
    [
        lambda level: np.exp(0.3 * level),
        lambda level: 1e-3 * level - 5,
        # Neighbours in float32 that count as equal.
        lambda level: 1 + 2.0**-23 * level,
        # Neighbours in float32 that are apart, with no float32 between them for a threshold.
        lambda level: 2.0**24 + 2 * level,
    ],
    ids=["uneven", "shifted", "near", "large"],
)
def test_equals_scikit_learn(n_classes, place):
    steps = levels(n_classes)
    labels = classify(steps, n_classes, 0)
    codes = place(steps)
    expected = known(codes, labels)
    found = fit(codes, labels, n_classes)
    np.testing.assert_allclose(found.importances, expected.feature_importances_, atol=1e-9)
    np.testing.assert_array_equal(found.train, expected.predict(codes[:N_TRAIN]))
    np.testing.assert_array_equal(found.test, expected.predict(codes[N_TRAIN:]))


def test_neighbours_in_float32_are_one_value():
    steps = levels(0)
    found = fit(1 + 2.0**-23 * steps, classify(steps, 3, 0), 3)
    assert found.importances.tolist() == [0, 0, 0]
    assert len(np.unique(found.test)) == 1


@pytest.mark.parametrize("n_classes", [2, 3])
def test_is_near_scikit_learn_where_splits_of_small_nodes_gain_the_same(n_classes):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(N_TRAIN + N_TEST, 4))
    labels = classify(2 * codes[:, :3], n_classes, 0)
    expected = known(codes, labels)
    found = fit(codes, labels, n_classes)
    np.testing.assert_allclose(found.importances, expected.feature_importances_, atol=0.01)
    assert (found.train == expected.predict(codes[:N_TRAIN])).mean() > 0.98
    assert (found.test == expected.predict(codes[N_TRAIN:])).mean() > 0.95


def test_copies_share_their_importance(monkeypatch):
    monkeypatch.setattr(boosting, "_STAGES", 5)
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(N_TRAIN + N_TEST, 2))
    labels = classify(2 * codes, 3, 0)
    single = fit(codes, labels, 3).importances
    both = np.array([fit(codes[:, [0, 1, 0, 1]], labels, 3, s).importances for s in range(30)])
    pairs = both.reshape(30, 2, 2)
    np.testing.assert_allclose(pairs.sum(axis=1), np.tile(single, (30, 1)), atol=0.01)
    shares = pairs.mean(axis=0) / pairs.mean(axis=0).sum(axis=0)
    np.testing.assert_allclose(shares, 0.5, atol=0.08)


def test_the_seed_breaks_ties_and_nothing_else():
    codes = np.random.default_rng(0).normal(size=(N_TRAIN + N_TEST, 2))
    labels = classify(2 * codes, 2, 0)
    copied = codes[:, [0, 1, 0, 1]]
    first, again, other = (fit(copied, labels, 2, seed) for seed in (1, 1, 2))
    assert first.importances.tolist() == again.importances.tolist()
    assert first.importances.tolist() != other.importances.tolist()
    assert first.importances.sum() == pytest.approx(1)


def test_what_is_looked_at_at_a_time_changes_nothing(monkeypatch):
    codes = levels(0, n_codes=5).astype(float)
    labels = classify(codes, 3, 0)
    whole = fit(codes, labels, 3)
    monkeypatch.setattr(boosting, "_CHUNK", 700)
    parts = fit(codes, labels, 3)
    assert whole.importances.tolist() == parts.importances.tolist()
    assert whole.test.tolist() == parts.test.tolist()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_codes_that_tell_nothing(n_classes):
    labels = np.arange(N_TRAIN + N_TEST) % n_classes
    labels[0] = 1
    found = fit(np.full((N_TRAIN + N_TEST, 2), 0.1), labels, n_classes)
    assert found.importances.tolist() == [0, 0]
    assert (found.test == 1).all()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_as_many_classes_as_samples(n):
    labels = np.arange(n)
    codes = labels[:, None] ** 2.0
    found = fit_boosting(sort_columns(codes), labels, n, codes)
    assert found.train.tolist() == found.test.tolist() == labels.tolist()
    assert found.importances.tolist() == [1]


def test_classes_that_are_told_apart_at_once_raise_no_warning():
    labels = np.repeat([0, 1], 300)
    codes = np.stack([1e30 * labels, -1e-30 * labels], axis=1)
    found = fit_boosting(sort_columns(codes), labels, 2, codes)
    assert found.test.tolist() == labels.tolist()
    # The second code has no values that are further apart than those which count as equal.
    assert found.importances.tolist() == [1, 0]
