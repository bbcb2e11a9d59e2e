import math

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics import boosting
from detaux_pl.metrics.dci import Importances, dci, dci_scores, fit_importances
from detaux_pl.metrics.inputs import draw_split
from tests.factor_codes import draw_factors, encode


@pytest.fixture
def few_stages(monkeypatch):
    """Fewer trees, for tests to which their number is all the same."""
    monkeypatch.setattr(boosting, "_STAGES", 8)


def naive_scores(matrix):
    """The formulas, share by share."""
    rows, columns = len(matrix), len(matrix[0])
    total = sum(map(sum, matrix))

    def score(lines, base):
        result = 0.0
        for line in lines:
            raised = [value + 1e-11 for value in line]
            shares = [value / sum(raised) for value in raised]
            entropy = -sum(share * math.log(share, base) for share in shares)
            result += sum(line) / total * (1 - entropy)
        return result

    return score(matrix, columns), score(list(zip(*matrix, strict=True)), rows)


def of_matrix(matrix):
    accuracies = np.linspace(0.2, 0.8, np.shape(matrix)[1])
    return Importances(np.array(matrix, dtype=float), accuracies, accuracies / 2)


@pytest.mark.parametrize("shape", [(2, 2), (6, 3), (3, 6)])
def test_scores_equal_the_formulas(shape):
    matrix = np.random.default_rng(0).dirichlet(np.full(shape[0], 0.3), shape[1]).T
    scores = dci_scores(of_matrix(matrix))
    disentanglement, completeness = naive_scores(matrix.tolist())
    assert scores["dci_disentanglement"] == pytest.approx(disentanglement, rel=1e-9)
    assert scores["dci_completeness"] == pytest.approx(completeness, rel=1e-9)
    assert scores["dci_informativeness"] == pytest.approx(0.25, rel=1e-9)


def test_scores_of_subspaces_are_those_of_sums():
    matrix = np.random.default_rng(0).random((6, 3))
    summed = matrix[::2] + matrix[1::2]
    assert dci_scores(of_matrix(matrix), "subspace", 2) == pytest.approx(
        dci_scores(of_matrix(summed)), rel=1e-12
    )


@pytest.mark.parametrize(
    ("matrix", "disentanglement", "completeness"),
    [
        (np.eye(3), 1, 1),
        (np.full((4, 3), 0.25), 0, 0),
        (np.zeros((4, 3)), 0, 0),
        # Two codes for each factor, each of a factor alone.
        (np.repeat(np.eye(2), 2, axis=0) / 2, 1, 0.5),
        # One code for both factors.
        ([[1, 1], [0, 0]], 0, 1),
    ],
)
def test_scores_of_known_importances(matrix, disentanglement, completeness):
    scores = dci_scores(of_matrix(matrix))
    assert scores["dci_disentanglement"] == pytest.approx(disentanglement, abs=1e-8)
    assert scores["dci_completeness"] == pytest.approx(completeness, abs=1e-8)


def test_importances_are_those_of_scikit_learn_on_the_same_samples():
    rng = np.random.default_rng(0)
    # Codes of a few levels, and factors that they do not determine: no two splits gain the same.
    codes = rng.integers(0, [4, 5, 6], (600, 3))
    noisy = np.stack([codes @ [1, 1, 0], codes @ [0, 1, 1]], axis=1) + rng.normal(size=(600, 2))
    factors = noisy.argsort(axis=0).argsort(axis=0) * [2, 3] // 600
    codes = np.exp(0.3 * codes)
    found = fit_importances(codes, factors, seed=3, n_train=450, n_test=100)
    train, test = draw_split(600, 450, 100, np.random.default_rng(3))
    for j, factor in enumerate(factors.T):
        known = GradientBoostingClassifier(random_state=0).fit(codes[train], factor[train])
        np.testing.assert_allclose(found.matrix[:, j], known.feature_importances_, atol=1e-9)
        for accuracy, rows in ((found.train_accuracy, train), (found.test_accuracy, test)):
            score = known.score(codes[rows], factor[rows])
            assert accuracy[j] == pytest.approx(score, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "disentanglement", "completeness", "informativeness"),
    [
        ("perfect", (1 - 1e-8, 1), (1 - 1e-8, 1), (1, 1)),
        ("with_dead", (1 - 1e-8, 1), (1 - 1e-8, 1), (1, 1)),
        # Either of two copies will do.
        ("duplicated", (1 - 1e-8, 1), (0.6, 0.75), (1, 1)),
        ("rotated", (0.1, 0.45), (0.1, 0.45), (0.6, 1)),
        ("random", (0, 0.03), (0, 0.03), (0.15, 0.32)),
        ("constant", (0, 0), (0, 0), (0.15, 0.32)),
    ],
)
def test_known_codes(kind, disentanglement, completeness, informativeness):
    factors = draw_factors(900)
    scores = dci(encode(factors, kind), factors, n_train=500, n_test=400)
    for score, (low, high) in zip(
        scores.values(), (disentanglement, completeness, informativeness), strict=True
    ):
        assert low - 1e-12 <= score <= high + 1e-12


def test_a_factor_that_fills_a_subspace_is_one_to_one():
    factors = draw_factors(600, (3, 4))
    rng = np.random.default_rng(0)
    places = [rng.normal(size=(size, 3)) for size in (3, 4)]
    codes = np.stack([place[factors[:, j]] for j, place in enumerate(places)], axis=1)
    scores = dci(codes, factors, per="subspace")
    assert list(scores.values()) == pytest.approx([1, 1, 1], abs=1e-8)
    assert dci(codes, factors)["dci_completeness"] < 0.95


def test_the_seed_draws_the_samples_and_processes_change_nothing():
    factors = draw_factors(200)
    codes = encode(factors, "noisy").reshape(200, 3, 2)
    done = []
    first = fit_importances(codes, factors, seed=1, n_jobs=3, progress=done.append)
    again = fit_importances(codes, factors, seed=1)
    other = fit_importances(codes, factors, seed=2)
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert first.matrix.tolist() != other.matrix.tolist()
    assert first.matrix.shape == (6, 4)
    np.testing.assert_allclose(first.matrix.sum(axis=0), 1)
    assert done == [0.25] * 4


@pytest.mark.usefixtures("few_stages")
@pytest.mark.parametrize("n", [3, 4, 7, 12])
def test_few_samples(n):
    # Values that are in one part only, or in one sample.
    factors = np.stack([np.arange(n), np.arange(n) == 0], axis=1).astype(int)
    codes = np.random.default_rng(n).normal(size=(n, 2))
    for seed in range(5):
        for score in dci(codes, factors, seed=seed).values():
            assert 0 <= score <= 1


@pytest.mark.parametrize(
    ("codes", "factors", "per", "message"),
    [
        (np.ones((9, 1)), np.arange(18).reshape(9, 2), "dim", "there are 1 code"),
        (np.ones((9, 1, 4)), np.arange(18).reshape(9, 2), "subspace", "there are 1 code"),
        (np.ones((9, 2)), np.arange(9)[:, None], "dim", "and 1 factor"),
        (np.full((9, 2), np.nan), np.arange(18).reshape(9, 2), "dim", "NaN or infinite"),
        (np.ones((9, 2)), np.zeros((9, 2), dtype=int), "dim", "one value only in 9 samples"),
        (np.ones((9, 2)), np.ones((9, 2)), "dim", "cut a continuous factor"),
        (np.ones((2, 2)), np.arange(4).reshape(2, 2), "dim", "there are 2 samples"),
    ],
)
def test_what_cannot_be_scored_is_refused(codes, factors, per, message):
    with pytest.raises(UserError, match=message) as error:
        dci(codes, factors, per=per)
    assert "\n" not in str(error.value)
