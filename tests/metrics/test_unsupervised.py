import json
from itertools import permutations

import numpy as np
import pytest
from scipy.linalg import block_diag, sqrtm
from sklearn.metrics import mutual_info_score

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.unsupervised import unsupervised
from tests.factor_codes import draw_factors, encode


def log_det(matrix):
    return np.linalg.slogdet(matrix)[1]


def reference(codes):
    covariance = np.cov(codes.T)
    variances = np.diag(np.diag(covariance))
    root = sqrtm(variances @ covariance).real
    bins = [np.digitize(code, np.histogram(code, 20)[1][:-1]) for code in codes.T]
    wasserstein = 2 * np.trace(covariance) - 2 * np.trace(root)
    return {
        "gaussian_total_correlation": 0.5 * (log_det(variances) - log_det(covariance)),
        "gaussian_wasserstein": wasserstein,
        "gaussian_wasserstein_normalized": wasserstein / np.trace(covariance),
        "mean_mutual_information": np.mean(
            [mutual_info_score(bins[i], bins[j]) for i, j in permutations(range(len(bins)), 2)]
        ),
    }


@pytest.mark.parametrize("kind", ["noisy", "rotated"])
def test_equals_the_formulas(kind):
    codes = encode(draw_factors(400), kind)
    assert unsupervised(codes) == pytest.approx(reference(codes), rel=1e-9, abs=1e-12)


def test_between_subspaces():
    codes = encode(draw_factors(400), "noisy")
    covariance = np.cov(codes.T)
    inside = block_diag(covariance[:2, :2], covariance[2:4, 2:4], covariance[4:, 4:])
    found = unsupervised(codes.reshape(400, 3, 2), per="subspace")
    assert found == pytest.approx(
        {"gaussian_total_correlation": 0.5 * (log_det(inside) - log_det(covariance))}, rel=1e-9
    )
    whole = unsupervised(codes.reshape(400, 1, 6), per="subspace")
    assert whole["gaussian_total_correlation"] == 0


def test_correlation_within_a_subspace_does_not_count():
    code = np.random.default_rng(0).normal(size=(2000, 2))
    codes = np.stack([code[:, :1] * [1, 1, 2], code[:, 1:] * [1, -1, 0]], axis=1)
    assert unsupervised(codes)["gaussian_total_correlation"] > 10
    between = unsupervised(codes, per="subspace")["gaussian_total_correlation"]
    assert between == pytest.approx(0, abs=0.01)


def test_known_codes():
    factors = draw_factors()
    for kind in ("perfect", "random"):
        scores = unsupervised(encode(factors, kind))
        assert max(scores.values()) < 0.06, kind
    # An orthogonal rotation of uncorrelated codes of the same variance stays uncorrelated.
    rotated = unsupervised(encode(factors, "rotated"))
    assert rotated["gaussian_total_correlation"] < 0.01
    assert rotated["mean_mutual_information"] > 0.2


def test_a_copy_has_a_finite_price():
    codes = encode(draw_factors(), "duplicated")
    scores = unsupervised(codes)
    # Eigenvalues of the correlation of a pair of copies: 2, and 0, which counts 1e-6.
    expected = unsupervised(codes[:, :4])["gaussian_total_correlation"]
    assert scores["gaussian_total_correlation"] == pytest.approx(
        expected + 2 * (6 * np.log(10) - np.log(2)), abs=0.01
    )
    assert scores["gaussian_wasserstein_normalized"] == pytest.approx(2 - np.sqrt(2), abs=1e-3)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_dead_codes_are_left_out():
    factors = draw_factors(500)
    alive = encode(factors, "perfect")
    dead = np.random.default_rng(0).normal(scale=1e-3, size=(500, 2))
    codes = np.concatenate([dead, alive, np.full((500, 1), 7.0)], axis=1)
    assert unsupervised(codes) == pytest.approx(unsupervised(alive), rel=1e-9)
    subspaces = np.stack([alive, np.zeros_like(alive), alive[:, ::-1]], axis=1)
    assert unsupervised(subspaces, per="subspace") == pytest.approx(
        unsupervised(subspaces[:, ::2], per="subspace"), rel=1e-9
    )


@pytest.mark.parametrize(
    "codes", [np.full((50, 3), 2.0), np.ones((1, 3)), np.arange(50.0)[:, None]]
)
def test_fewer_than_two_live_codes_depend_on_nothing(codes):
    assert unsupervised(codes) == dict.fromkeys(reference(np.eye(3)), 0.0)
    assert unsupervised(codes, per="subspace") == {"gaussian_total_correlation": 0.0}


def test_order_sign_scale_and_origin_do_not_count():
    codes = encode(draw_factors(400), "noisy")
    expected = unsupervised(codes)
    moved = unsupervised(4 * codes[:, ::-1] + 8)
    squared = expected.pop("gaussian_wasserstein")
    assert moved.pop("gaussian_wasserstein") == pytest.approx(16 * squared, rel=1e-9)
    assert moved == pytest.approx(expected, rel=1e-9)
    sign = unsupervised(-codes)["gaussian_total_correlation"]
    assert sign == pytest.approx(expected["gaussian_total_correlation"], rel=1e-9)
    # Scales of single codes count in the Wasserstein distance alone.
    scaled = unsupervised(codes * [1, 2, 4, 2, 1, 4])
    for name in ("gaussian_total_correlation", "mean_mutual_information"):
        assert scaled[name] == pytest.approx(expected[name], rel=1e-9)


def test_subspaces_and_seed():
    codes = encode(draw_factors(400), "noisy")
    assert unsupervised(codes.reshape(400, 3, 2)) == unsupervised(codes)
    first = unsupervised(codes, seed=1, n_train=200)
    assert unsupervised(codes, seed=1, n_train=200) == first
    assert unsupervised(codes, seed=2, n_train=200) != first


def test_codes_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="NaN or infinite"):
        unsupervised(np.array([[0.0, np.inf], [1.0, 2.0]]))
