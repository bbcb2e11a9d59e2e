import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.explicitness import explicitness
from detaux_pl.metrics.inputs import draw_split
from tests.factor_codes import draw_factors, encode


def area(positive, score):
    """Share of the pairs of a positive and a negative that the score orders; ties count half."""
    won = 0.0
    for high in score[positive].tolist():
        for low in score[~positive].tolist():
            won += 1.0 if high > low else 0.5 if high == low else 0.0
    return won / (positive.sum() * (~positive).sum())


def reference(codes, factors, seed=0):
    train, test = draw_split(len(codes), 10_000, 5_000, np.random.default_rng(seed))
    codes = (codes - codes[train].mean(axis=0)) / codes[train].std(axis=0)
    scores = []
    for factor in factors.T:
        model = LogisticRegression().fit(codes[train], factor[train])
        shares = model.predict_proba(codes[test])
        scores.append(
            np.mean(
                [
                    area(factor[test] == value, shares[:, k])
                    for k, value in enumerate(model.classes_)
                ]
            )
        )
    return sum(scores) / len(scores)


def test_equals_counted_pairs():
    factors = draw_factors(300, (2, 3, 5))
    codes = encode(factors, "noisy")[:, :2]
    expected = reference(codes, factors)
    assert 0.6 < expected < 0.95
    assert explicitness(codes, factors)["explicitness"] == pytest.approx(expected, rel=1e-9)


def test_known_codes():
    factors = draw_factors(600)
    scores = {
        kind: explicitness(encode(factors, kind), factors)["explicitness"]
        for kind in ("perfect", "rotated", "constant", "duplicated", "random", "with_dead")
    }
    for kind in ("perfect", "rotated", "duplicated", "with_dead"):
        assert scores[kind] == pytest.approx(1, abs=1e-3), kind
    assert scores["with_dead"] == pytest.approx(scores["perfect"], rel=1e-9)
    assert scores["constant"] == 0.5
    assert scores["random"] == pytest.approx(0.5, abs=0.05)


def test_order_sign_scale_and_origin_do_not_count():
    factors = draw_factors(300)
    codes = encode(factors, "noisy")
    expected = explicitness(codes, factors)["explicitness"]
    scale = np.array([-1e-3, 1, -5, 1e4, 2, 3])
    moved = explicitness((codes * scale + 100 * scale)[:, ::-1], factors)["explicitness"]
    # The optimiser ends at its own precision, and two samples may change places.
    assert moved == pytest.approx(expected, abs=1e-3)


def test_seed_threads_and_subspaces():
    factors = draw_factors(300)
    codes = encode(factors, "noisy")
    done = []
    filters = list(warnings.filters)
    first = explicitness(codes, factors, seed=1, n_jobs=3, progress=done.append)
    assert list(warnings.filters) == filters
    assert done == [0.25] * 4
    assert explicitness(codes.reshape(300, 2, 3), factors, seed=1) == first
    assert explicitness(codes, factors, seed=2) != first
    assert explicitness(codes, factors, seed=1, n_train=100, n_test=50) != first


def test_an_optimiser_that_does_not_end_raises_no_warning(monkeypatch):
    factors = draw_factors(200)
    codes = encode(factors, "noisy")
    expected = explicitness(codes, factors)
    fit = LogisticRegression.fit

    def stop_early(self, *data):
        self.max_iter = 2
        return fit(self, *data)

    monkeypatch.setattr(LogisticRegression, "fit", stop_early)
    assert explicitness(codes, factors) != expected


@pytest.mark.parametrize("n", [3, 4, 7, 12])
def test_few_samples(n):
    factors = np.stack([np.arange(n), np.arange(n) == 0], axis=1).astype(int)
    codes = np.random.default_rng(n).normal(size=(n, 3))
    for seed in range(5):
        assert 0 <= explicitness(codes, factors, seed=seed)["explicitness"] <= 1


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.full((9, 2), np.nan), np.arange(9)[:, None], "NaN or infinite"),
        (np.ones((9, 2)), np.zeros((9, 1), dtype=int), "factor 0 has one value only"),
        (np.ones((9, 2)), np.linspace(0, 1, 9)[:, None], "cut a continuous factor"),
    ],
)
def test_what_cannot_be_scored_is_refused(codes, factors, message):
    with pytest.raises(UserError, match=message) as error:
        explicitness(codes, factors)
    assert "\n" not in str(error.value)
