import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics import beta_vae_score as module
from detaux_pl.metrics.beta_vae_score import beta_vae_score
from detaux_pl.metrics.shared_values import SharedValues
from tests.factor_codes import draw_factors, encode

FEW = {"n_points_train": 400, "n_points_test": 200, "batch": 8}


def reference(codes, factors, seed, n_points_train, n_points_test, batch):
    """Points pair by pair, of codes of shape (N, K, D), on the pairs that the score draws."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(factors.shape[1], size=n_points_train + n_points_test)
    first = rng.integers(len(codes), size=(len(chosen), batch))
    second = SharedValues(factors).partners(chosen, first, rng)
    points = []
    for rows, partners in zip(first, second, strict=True):
        pairs = list(zip(codes[rows], codes[partners], strict=True))
        points.append(
            [sum(math.dist(a[k], b[k]) for a, b in pairs) / batch for k in range(codes.shape[1])]
        )
    model = LogisticRegression().fit(points[:n_points_train], chosen[:n_points_train])
    return model.score(points[n_points_train:], chosen[n_points_train:])


@pytest.mark.parametrize("shape", [(6, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize("chunk", [1, 500, 1 << 17])
def test_equals_points_pair_by_pair(shape, chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    factors = draw_factors(200)
    codes = encode(factors, "noisy").reshape(200, *shape)
    expected = reference(codes, factors, 5, **FEW)
    assert 0.3 < expected < 1
    found = beta_vae_score(codes, factors, seed=5, per="subspace", **FEW)
    assert found["beta_vae"] == pytest.approx(expected, rel=1e-9)
    if shape[1] == 1:
        assert beta_vae_score(codes, factors, seed=5, **FEW) == found


def test_dimensions_of_subspaces_are_codes():
    factors = draw_factors(200)
    codes = encode(factors, "noisy")
    assert beta_vae_score(codes.reshape(200, 2, 3), factors, **FEW) == beta_vae_score(
        codes, factors, **FEW
    )


@pytest.mark.parametrize("kind", ["perfect", "rotated", "duplicated", "with_dead"])
def test_codes_that_give_every_factor_away(kind):
    factors = draw_factors()
    assert beta_vae_score(encode(factors, kind, seed=1), factors) == {"beta_vae": 1.0}


def test_a_rotation_that_makes_two_factors_alike_costs_some():
    factors = draw_factors()
    score = beta_vae_score(encode(factors, "rotated", seed=0), factors)["beta_vae"]
    assert 0.7 < score < 0.9


@pytest.mark.parametrize("kind", ["constant", "random"])
def test_codes_that_tell_nothing_score_as_chance_does(kind):
    factors = draw_factors()
    score = beta_vae_score(encode(factors, kind), factors)["beta_vae"]
    assert score == pytest.approx(1 / 4, abs=0.025)


def test_a_factor_that_fills_a_subspace_is_found():
    factors = draw_factors(900)
    rng = np.random.default_rng(0)
    places = [rng.normal(size=(size, 3)) for size in (3, 4, 5, 6)]
    codes = np.stack([place[factors[:, j]] for j, place in enumerate(places)], axis=1)
    assert beta_vae_score(codes, factors, per="subspace") == {"beta_vae": 1.0}


def test_a_single_factor_needs_no_telling():
    factors = draw_factors(200, (5,))
    assert beta_vae_score(encode(factors, "noisy"), factors) == {"beta_vae": 1.0}


def test_the_seed_draws_the_points():
    factors = draw_factors(300)
    codes = encode(factors, "noisy")
    first = beta_vae_score(codes, factors, seed=1, **FEW)
    assert beta_vae_score(codes, factors, seed=1, **FEW) == first
    assert beta_vae_score(codes, factors, seed=2, **FEW) != first


@pytest.mark.parametrize("scale", [1e-8, 1e4])
def test_codes_of_any_scale_raise_no_warning(scale):
    factors = draw_factors(200)
    score = beta_vae_score(scale * encode(factors, "noisy"), factors, **FEW)["beta_vae"]
    assert 0.15 < score <= 1


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("per", ["dim", "subspace"])
def test_few_samples(n, per):
    factors = np.stack([np.arange(n), np.arange(n) == 0], axis=1).astype(int)
    codes = np.random.default_rng(n).normal(size=(n, 2, 3))
    for seed in range(4):
        for points in (1, 3):
            score = beta_vae_score(
                codes, factors, seed=seed, n_points_train=points, n_points_test=4, per=per
            )
            assert 0 <= score["beta_vae"] <= 1


@pytest.mark.parametrize("wrong", ["n_points_train", "n_points_test", "batch"])
def test_numbers_that_are_not_positive_are_refused(wrong):
    factors = draw_factors(20)
    with pytest.raises(ValueError, match="give at least 1 of each"):
        beta_vae_score(encode(factors, "noisy"), factors, **{wrong: 0})


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.full((9, 2), np.nan), np.arange(9)[:, None], "NaN or infinite"),
        (np.ones((9, 2)), np.zeros((9, 1), dtype=int), "one value only in 9 samples"),
        (np.ones((9, 2)), np.linspace(0, 1, 9)[:, None], "cut a continuous factor"),
    ],
)
def test_what_cannot_be_scored_is_refused(codes, factors, message):
    with pytest.raises(UserError, match=message) as error:
        beta_vae_score(codes, factors)
    assert "\n" not in str(error.value)
