import math

import numpy as np
import pytest

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics import factor_vae_score as module
from detaux_pl.metrics.factor_vae_score import factor_vae_score
from detaux_pl.metrics.shared_values import SharedValues
from tests.factor_codes import draw_factors, encode

FEW = {"n_votes_train": 400, "n_votes_test": 200, "batch": 16}


def variance(values):
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def reference(codes, factors, seed, n_votes_train, n_votes_test, batch):
    """Votes one by one, of codes of shape (N, K, D), on the batches that the score draws."""
    n, n_codes, dims = codes.shape
    n_factors = factors.shape[1]
    rng = np.random.default_rng(seed)
    chosen = rng.integers(n_factors, size=n_votes_train + n_votes_test)
    first = rng.integers(n, size=(len(chosen), 1)).repeat(batch, axis=1)
    batches = SharedValues(factors).partners(chosen, first, rng)
    each = [(k, d) for k in range(n_codes) for d in range(dims)]
    whole = {place: variance(codes[:, *place].tolist()) for place in each}
    least = 0.05 * math.sqrt(max(whole.values()))
    alive = [place for place in each if math.sqrt(whole[place]) > least]

    def vote(rows):
        ratios = {}
        for k in sorted({k for k, _ in alive}):
            own = [place for place in alive if place[0] == k]
            inside = sum(variance(codes[rows, *place].tolist()) for place in own)
            ratios[k] = inside / sum(whole[place] for place in own)
        return min(ratios, key=ratios.get)

    counts = {}
    for rows, factor in zip(batches[:n_votes_train], chosen, strict=False):
        counts.setdefault(vote(rows), [0] * n_factors)[factor] += 1
    right = 0
    for rows, factor in zip(batches[n_votes_train:], chosen[n_votes_train:], strict=True):
        seen = counts.get(vote(rows), [1])
        right += seen.index(max(seen)) == factor
    return right / n_votes_test


@pytest.mark.parametrize("shape", [(6, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize("chunk", [1, 500, 1 << 17])
def test_equals_votes_one_by_one(shape, chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    factors = draw_factors(200)
    codes = encode(factors, "noisy").reshape(200, *shape)
    codes[:, 0, 0] *= 1e-3  # dead
    expected = reference(codes, factors, 5, **FEW)
    assert 0.3 < expected < 1
    found = factor_vae_score(codes, factors, seed=5, per="subspace", **FEW)
    assert found["factor_vae"] == pytest.approx(expected, rel=1e-9)
    if shape[1] == 1:
        assert factor_vae_score(codes, factors, seed=5, **FEW) == found


def test_dimensions_of_subspaces_are_codes():
    factors = draw_factors(200)
    codes = encode(factors, "noisy")
    assert factor_vae_score(codes.reshape(200, 2, 3), factors, **FEW) == factor_vae_score(
        codes, factors, **FEW
    )


@pytest.mark.parametrize("kind", ["perfect", "rotated", "duplicated", "with_dead"])
def test_codes_that_give_every_factor_away(kind):
    factors = draw_factors()
    assert factor_vae_score(encode(factors, kind, seed=1), factors) == {"factor_vae": 1.0}


def test_a_rotation_that_makes_two_factors_alike_costs_some():
    factors = draw_factors()
    score = factor_vae_score(encode(factors, "rotated", seed=0), factors)["factor_vae"]
    assert 0.7 < score < 0.9


@pytest.mark.parametrize("kind", ["constant", "random"])
def test_codes_that_tell_nothing_score_as_chance_does(kind):
    factors = draw_factors()
    score = factor_vae_score(encode(factors, kind), factors)["factor_vae"]
    assert score == pytest.approx(1 / 4, abs=0.025)


def test_a_dead_code_has_no_vote_even_if_it_varies_a_little():
    factors = draw_factors()
    noise = np.random.default_rng(0).normal(size=(len(factors), 2))
    codes = np.concatenate([1e-3 * factors[:, ::-1] + 1e-9 * noise[:, :1], 0.04 * noise], axis=1)
    alive = np.concatenate([codes, encode(factors, "perfect")], axis=1)
    assert factor_vae_score(alive, factors) == {"factor_vae": 1.0}
    assert factor_vae_score(alive[:, 6:], factors, threshold=0.9) == {"factor_vae": 1.0}


def test_a_single_live_code_always_votes_alike():
    factors = draw_factors(500, (3, 4))
    codes = np.stack([factors[:, 0], np.zeros(500)], axis=1).astype(float)
    assert factor_vae_score(codes, factors)["factor_vae"] == pytest.approx(1 / 2, abs=0.03)


def test_a_factor_that_fills_a_subspace_is_found():
    factors = draw_factors(900)
    rng = np.random.default_rng(0)
    # On a sphere: each dimension varies with the value, the subspace does with nothing else.
    places = [rng.normal(size=(size, 3)) for size in (3, 4, 5, 6)]
    codes = np.stack([place[factors[:, j]] for j, place in enumerate(places)], axis=1)
    codes += 0.1 * rng.normal(size=codes.shape)
    assert factor_vae_score(codes, factors, per="subspace") == {"factor_vae": 1.0}


def test_scale_offset_and_order_do_not_count():
    factors = draw_factors(300)
    codes = encode(factors, "noisy")
    expected = factor_vae_score(codes, factors, **FEW)
    assert factor_vae_score(-1e3 * codes[:, ::-1] + 5e3, factors, **FEW) == expected
    assert factor_vae_score(1e-3 * codes, 7 * factors, **FEW) == expected


def test_the_seed_draws_the_votes():
    factors = draw_factors(300)
    codes = encode(factors, "noisy")
    first = factor_vae_score(codes, factors, seed=1)
    assert factor_vae_score(codes, factors, seed=1) == first
    assert factor_vae_score(codes, factors, seed=2) != first


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("per", ["dim", "subspace"])
def test_few_samples(n, per):
    factors = np.stack([np.arange(n), np.arange(n) == 0], axis=1).astype(int)
    codes = np.random.default_rng(n).normal(size=(n, 2, 3))
    for votes in ({}, {"n_votes_train": 1, "n_votes_test": 1, "batch": 2}):
        assert 0 <= factor_vae_score(codes, factors, per=per, **votes)["factor_vae"] <= 1


@pytest.mark.parametrize("wrong", [{"n_votes_train": 0}, {"n_votes_test": 0}, {"batch": 1}])
def test_numbers_that_are_too_small_are_refused(wrong):
    factors = draw_factors(20)
    with pytest.raises(ValueError, match="give at least 1, 1 and 2"):
        factor_vae_score(encode(factors, "noisy"), factors, **wrong)


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
        factor_vae_score(codes, factors)
    assert "\n" not in str(error.value)
