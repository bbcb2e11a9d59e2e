import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.mig import mig
from detaux_pl.metrics.modularity import modularity
from detaux_pl.metrics.mutual_information import discretise, entropies, mutual_information
from tests.factor_codes import draw_factors, encode


def naive_bins(code, n_bins=20):
    """The bin of each value, found one by one among the edges of numpy's histogram."""
    edges = np.histogram(code, n_bins)[1][:-1].tolist()
    return np.array([sum(value >= edge for edge in edges) for value in code.tolist()])


def naive_information(codes, factors, n_bins=20):
    return np.array(
        [[mutual_info_score(naive_bins(c, n_bins), f) for f in factors.T] for c in codes.T]
    )


def naive_mig(codes, factors):
    gaps = []
    for shared, factor in zip(naive_information(codes, factors).T, factors.T, strict=True):
        second, best = sorted(shared)[-2:]
        gaps.append((best - second) / mutual_info_score(factor, factor))
    return sum(gaps) / len(gaps)


def naive_modularity(codes, factors):
    scores = []
    for shared in naive_information(codes, factors):
        squares = sorted(x * x for x in shared)
        if squares[-1] < 1e-25:
            scores.append(0.0)
        else:
            scores.append(1 - sum(squares[:-1]) / (squares[-1] * (len(squares) - 1)))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("kind", ["noisy", "perfect", "rotated", "with_dead", "random"])
def test_equal_loops_over_the_cells(kind):
    factors = draw_factors(300)
    codes = encode(factors, kind)
    expected = naive_information(codes, factors)
    np.testing.assert_allclose(mutual_information(codes, factors), expected, rtol=1e-9, atol=1e-13)
    assert mig(codes, factors)["mig"] == pytest.approx(naive_mig(codes, factors), rel=1e-9)
    assert modularity(codes, factors)["modularity"] == pytest.approx(
        naive_modularity(codes, factors), rel=1e-9
    )


def test_other_numbers_of_bins():
    factors = draw_factors(300)
    codes = encode(factors, "noisy")
    expected = naive_information(codes, factors, 7)
    np.testing.assert_allclose(mutual_information(codes, factors, n_bins=7), expected, rtol=1e-9)
    assert mig(codes, factors, n_bins=7) != mig(codes, factors)


@pytest.mark.parametrize(
    "code", [np.zeros(5), np.full(5, 3.7), np.full(5, -1e17), np.full(5, 1e-300)]
)
def test_a_constant_code_has_one_bin(code):
    assert np.unique(discretise(code[:, None])).size == 1


def test_bins_are_equally_wide_and_the_maximum_is_in_the_last():
    code = np.linspace(-3, 5, 21)
    assert discretise(code[:, None])[:, 0].tolist() == [*range(20), 19]


def test_a_bijection_shares_all_of_its_entropy():
    factors = np.repeat(np.arange(8), 5)[:, None]
    codes = np.random.default_rng(0).permutation(8)[factors].astype(float)
    assert mutual_information(codes, factors)[0, 0] == pytest.approx(np.log(8), rel=1e-12)
    assert entropies(factors) == pytest.approx([np.log(8)], rel=1e-12)


def test_known_codes():
    factors = draw_factors(6000)
    gaps = {
        kind: mig(encode(factors, kind), factors)["mig"]
        for kind in ("perfect", "rotated", "constant", "duplicated", "random", "with_dead")
    }
    assert gaps["perfect"] == pytest.approx(1, abs=0.01)
    assert gaps["with_dead"] == gaps["perfect"]
    assert 0.1 < gaps["rotated"] < 0.4
    assert gaps["constant"] == 0
    assert gaps["duplicated"] == 0
    assert gaps["random"] < 0.01
    scores = {
        kind: modularity(encode(factors, kind), factors)["modularity"]
        for kind in ("perfect", "rotated", "constant", "duplicated", "random", "with_dead")
    }
    assert scores["perfect"] == pytest.approx(1, abs=1e-3)
    assert scores["duplicated"] == pytest.approx(1, abs=1e-3)
    # Both floors are high, and a dead code counts 0.
    assert 0.7 < scores["rotated"] < 0.95
    assert 0.5 < scores["random"] < 0.75
    assert scores["with_dead"] == pytest.approx(scores["perfect"] * 4 / 7, rel=1e-9)
    assert scores["constant"] == 0


@pytest.mark.parametrize("metric", [mig, modularity])
def test_order_sign_scale_and_names_do_not_count(metric):
    factors = draw_factors(400)
    codes = encode(factors, "noisy")
    expected = metric(codes, factors)
    order = np.random.default_rng(1).permutation(codes.shape[1])
    # A power of two rounds nothing, so that no value changes its bin.
    assert metric(4 * codes[:, order], factors) == pytest.approx(expected, rel=1e-9)
    assert metric(codes, 50 - 7 * factors[:, ::-1]) == pytest.approx(expected, rel=1e-9)
    # Bins contain their left edge: mirrored values fall as before where none lies on an edge.
    assert metric(-codes, factors) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("metric", [mig, modularity])
def test_dimensions_of_subspaces_are_codes(metric):
    factors = draw_factors(200)
    codes = encode(factors, "noisy")
    assert metric(codes.reshape(200, 3, 2), factors) == metric(codes, factors)


@pytest.mark.parametrize("metric", [mig, modularity])
def test_the_seed_draws_the_samples(metric):
    factors = draw_factors(2000)
    codes = encode(factors, "noisy")
    first = metric(codes, factors, seed=3, n_train=500)
    assert metric(codes, factors, seed=3, n_train=500) == first
    assert metric(codes, factors, seed=4, n_train=500) != first
    assert metric(codes, factors, seed=4) == metric(codes, factors, seed=3)


@pytest.mark.parametrize(
    ("metric", "codes", "factors", "message"),
    [
        (mig, np.ones((9, 1)), np.arange(9)[:, None], "there is one code: give at least 2"),
        (mig, np.ones((9, 1, 1)), np.arange(9)[:, None], "there is one code: give at least 2"),
        (modularity, np.ones((9, 2)), np.arange(9)[:, None], "there is one factor"),
        *[
            (metric, codes, factors, message)
            for metric in (mig, modularity, mutual_information)
            for codes, factors, message in [
                (np.full((9, 2), np.nan), np.tile(np.arange(9), (2, 1)).T, "NaN or infinite"),
                (np.ones((9, 2)), np.ones((9, 2), dtype=int), "factor 0 has one value only"),
                (np.ones((9, 2)), np.ones((9, 2)), "give integers"),
            ]
        ],
    ],
)
def test_what_cannot_be_scored_is_refused(metric, codes, factors, message):
    with pytest.raises(UserError, match=message) as error:
        metric(codes, factors)
    assert "\n" not in str(error.value)


def test_a_number_of_samples_must_be_positive():
    with pytest.raises(ValueError, match="samples to draw is 0"):
        mig(np.ones((9, 2)), np.arange(9)[:, None], n_train=0)
