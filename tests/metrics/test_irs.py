import math

import numpy as np
import pytest

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.inputs import draw_rows
from detaux_pl.metrics.irs import irs
from tests.factor_codes import draw_factors, encode


def deviations(points):
    """Distance of each point to their mean."""
    mean = [sum(values) / len(points) for values in zip(*points, strict=True)]
    return [math.dist(point, mean) for point in points]


def reference(codes, factors, quantile):
    """Code by code, factor by factor and value by value, of codes of shape (N, K, D)."""
    scores, weights = [], []
    for k in range(codes.shape[1]):
        points = codes[:, k].tolist()
        largest = max(deviations(points))
        if largest == 0:
            continue
        kept = []
        for factor in factors.T:
            values = sorted(set(factor.tolist()))
            moves = [
                np.quantile(deviations(codes[factor == value, k].tolist()), quantile)
                for value in values
            ]
            kept.append(1 - sum(moves) / len(values) / largest)
        scores.append(max(kept))
        weights.append(largest)
    return sum(s * w for s, w in zip(scores, weights, strict=True)) / sum(weights)


@pytest.mark.parametrize("shape", [(6, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize("quantile", [0.99, 1, 0.5])
def test_equals_the_formula_value_by_value(shape, quantile):
    factors = draw_factors(300)
    codes = encode(factors, "noisy").reshape(300, *shape) * np.arange(1, shape[0] + 1)[:, None]
    codes[:, -1] = 0.1  # constant
    found = irs(codes, factors, quantile=quantile, per="subspace")["irs"]
    assert found == pytest.approx(reference(codes, factors, quantile), rel=1e-9)
    if shape[1] == 1:
        assert irs(codes, factors, quantile=quantile)["irs"] == found


def test_a_factor_of_many_values_is_cut_into_bins():
    factors = np.stack([np.arange(600) % 60, np.arange(600) % 7], axis=1)
    codes = np.random.default_rng(0).normal(size=(600, 2)) + factors
    cut = np.stack([factors[:, 0] // 3, factors[:, 1]], axis=1)
    assert irs(codes, factors) == irs(codes, cut)
    # Of up to 20 values each is its own.
    twenty = np.stack([np.arange(600) % 20, factors[:, 1]], axis=1)
    found = irs(codes, twenty)["irs"]
    assert found == pytest.approx(reference(codes[..., None], twenty, 0.99), rel=1e-9)


def test_dimensions_of_subspaces_are_codes():
    factors = draw_factors(300)
    codes = encode(factors, "noisy")
    assert irs(codes.reshape(300, 2, 3), factors) == irs(codes, factors)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("perfect", 1, 1),
        ("duplicated", 1, 1),
        ("with_dead", 1, 1),
        ("rotated", 0.4, 0.7),
        # Not 0: a quantile leaves extremes out that count for the largest deviation.
        ("random", 0.2, 0.4),
        ("constant", 0, 0),
    ],
)
def test_known_codes(kind, low, high):
    factors = draw_factors(10_000)
    assert low - 1e-9 <= irs(encode(factors, kind), factors)["irs"] <= high + 1e-9


def test_random_codes_score_less_without_a_quantile():
    factors = draw_factors(10_000)
    codes = encode(factors, "random")
    assert irs(codes, factors, quantile=1)["irs"] < irs(codes, factors)["irs"] - 0.1


def test_a_constant_code_of_float32_is_dropped():
    factors = draw_factors(500)
    codes = encode(factors, "perfect").astype(np.float32)
    constant = np.full((500, 1), 1000.1, dtype=np.float32)
    constant[::2] = np.nextafter(constant[0], np.float32(0))
    assert irs(np.concatenate([codes, constant], axis=1), factors) == irs(codes, factors)


def test_a_factor_that_fills_a_subspace_moves_it_alone():
    factors = draw_factors(900)
    rng = np.random.default_rng(0)
    places = [rng.normal(size=(size, 3)) for size in (3, 4, 5, 6)]
    codes = np.stack([place[factors[:, j]] for j, place in enumerate(places)], axis=1)
    assert irs(codes, factors, per="subspace")["irs"] == pytest.approx(1, abs=1e-9)


def test_scale_offset_and_order_do_not_count():
    factors = draw_factors(300)
    codes = encode(factors, "noisy")
    expected = irs(codes, factors)
    assert irs(-1e3 * codes[:, ::-1] + 5, factors) == pytest.approx(expected, rel=1e-9)
    assert irs(codes, 3 * factors[:, ::-1] - 1) == pytest.approx(expected, rel=1e-9)


def test_the_seed_draws_the_samples():
    factors = draw_factors(400)
    codes = encode(factors, "noisy")
    first = irs(codes, factors, seed=1, n_train=250)
    rows = draw_rows(400, 250, 1)
    assert irs(codes, factors, seed=1, n_train=250) == first
    assert irs(codes[rows], factors[rows]) == first
    assert irs(codes, factors, seed=2, n_train=250) != first


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("per", ["dim", "subspace"])
def test_few_samples(n, per):
    factors = np.stack([np.arange(n), np.arange(n) == 0], axis=1).astype(int)
    codes = np.random.default_rng(n).normal(size=(n, 2, 3))
    # Every value of the first factor is that of one sample, which is its own mean.
    assert irs(codes, factors, per=per) == {"irs": 1.0}
    assert 0 <= irs(codes, factors[:, 1:], per=per)["irs"] <= 1


@pytest.mark.parametrize("quantile", [0, -0.1, 1.1, math.nan])
def test_a_quantile_that_is_none_is_refused(quantile):
    factors = draw_factors(20)
    with pytest.raises(ValueError, match=r"give one in \(0, 1\]"):
        irs(encode(factors, "noisy"), factors, quantile=quantile)


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
        irs(codes, factors)
    assert "\n" not in str(error.value)
