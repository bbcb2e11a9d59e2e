import warnings

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.inputs import draw_split
from detaux_pl.metrics.sap import sap
from detaux_pl.metrics.support_vectors import fit_line
from tests.factor_codes import SIZES, draw_factors, encode


def reference(codes, factors, seed=0, n_train=10_000, n_test=5_000):
    """Machines of scikit-learn on codes of shape (N, K, D), run until they hardly move."""
    train, test = draw_split(len(codes), n_train, n_test, np.random.default_rng(seed))
    gaps = []
    for factor in factors.T:
        found = []
        for k in range(codes.shape[1]):
            machine = LinearSVC(
                C=0.01, class_weight="balanced", dual=False, tol=1e-9, max_iter=100_000
            ).fit(codes[train, k], factor[train])
            found.append(machine.score(codes[test, k], factor[test]))
        second, best = sorted(found)[-2:]
        gaps.append(best - second)
    return sum(gaps) / len(gaps)


def loss(w, b, x, sign, weight):
    """What a machine minimises, sample by sample."""
    total = (w * w + b * b) / 2
    for value, one, share in zip(x.tolist(), sign.tolist(), weight.tolist(), strict=True):
        total += share * max(0.0, 1 - one * (w * value + b)) ** 2
    return total


def weights(labels, k, n_classes, c):
    """Weight of each sample to machine k: the class is balanced, the rest is not."""
    balanced = c * len(labels) / (n_classes * np.bincount(labels))
    own = labels == k
    return np.where(own, balanced[k], balanced[1 - k] if n_classes == 2 else c)


@pytest.mark.parametrize("n_classes", [2, 3, 9])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-3, 0), (1e3, 0), (1, 100), (-3, 1)])
def test_lines_are_those_of_liblinear(n_classes, scale, offset):
    rng = np.random.default_rng(n_classes)
    labels = np.concatenate([np.arange(n_classes), rng.geometric(0.4, 400) % n_classes])
    x = scale * (labels % 4 + 0.4 * rng.normal(size=len(labels))) + offset
    w, b = fit_line(x, labels, n_classes, c=0.01)
    machine = LinearSVC(C=0.01, class_weight="balanced", dual=False, tol=1e-11, max_iter=100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # liblinear ends without its last digits for large codes
        machine.fit(x[:, None], labels)
    known_w, known_b = machine.coef_[:, 0], machine.intercept_
    if n_classes == 2:  # scikit-learn keeps the second of two, which mirror each other
        known_w, known_b = np.array([-1, 1]) * known_w, np.array([-1, 1]) * known_b
    for k in range(n_classes):
        sign = np.where(labels == k, 1, -1)
        shares = weights(labels, k, n_classes, 0.01)
        known = loss(known_w[k], known_b[k], x, sign, shares)
        found = loss(w[k], b[k], x, sign, shares)
        assert found <= known * (1 + 1e-9)  # where liblinear ends, but for rounding
        assert found == pytest.approx(known, rel=1e-6)
    if abs(scale) == 1 and offset == 0:
        np.testing.assert_allclose(w, known_w, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(b, known_b, rtol=1e-6, atol=1e-8)


def test_lines_lie_where_the_loss_does_not_change():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    x = labels + rng.normal(size=300)
    for k, (w, b) in enumerate(zip(*fit_line(x, labels, 4, c=0.5), strict=True)):
        sign = np.where(labels == k, 1, -1)
        slack = weights(labels, k, 4, 0.5) * np.maximum(0, 1 - sign * (w * x + b)) * sign
        assert w == pytest.approx(2 * (slack * x).sum(), rel=1e-9)
        assert b == pytest.approx(2 * slack.sum(), rel=1e-9)


@pytest.mark.parametrize("x", [np.zeros(12), np.full(12, 5.0), np.repeat([0.0, 1e-200], 6)])
def test_lines_of_numbers_that_hardly_vary(x):
    w, b = fit_line(x, np.arange(12) % 3, 3)
    assert np.isfinite(w).all()
    assert np.isfinite(b).all()


@pytest.mark.parametrize("kind", ["perfect", "noisy", "rotated"])
def test_equals_machines_of_scikit_learn(kind):
    factors = draw_factors(900)
    codes = encode(factors, kind)
    assert sap(codes, factors)["sap"] == pytest.approx(
        reference(codes[:, :, None], factors), rel=1e-9
    )


def test_a_subspace_is_seen_whole():
    factors = draw_factors(900)
    codes = encode(factors, "noisy").reshape(900, 3, 2)
    expected = reference(codes, factors, 5, 400, 300)
    found = sap(codes, factors, seed=5, n_train=400, n_test=300, per="subspace")
    # Of scikit-learn's machines the default precision moves a sample or two.
    assert found["sap"] == pytest.approx(expected, abs=0.01)
    assert found != sap(codes, factors, seed=5, n_train=400, n_test=300)


def test_dimensions_of_subspaces_are_codes():
    factors = draw_factors(300)
    codes = encode(factors, "noisy")
    flat = sap(codes, factors)
    assert sap(codes.reshape(300, 3, 2), factors) == flat
    assert sap(codes.reshape(300, 6, 1), factors, per="subspace") == flat


def test_known_codes():
    factors = draw_factors()
    scores = {
        kind: sap(encode(factors, kind), factors)["sap"]
        for kind in ("perfect", "rotated", "constant", "duplicated", "random", "with_dead")
    }
    # On one dimension no machine singles out a value in the middle.
    assert 0.35 < scores["perfect"] < 0.7
    assert 0.02 < scores["rotated"] < 0.3
    assert scores["constant"] == 0
    assert scores["duplicated"] == 0
    assert 0 <= scores["random"] < 0.05
    assert scores["with_dead"] == pytest.approx(scores["perfect"], abs=0.03)


def test_a_single_live_code_is_compared_with_a_guess():
    factors = np.repeat([0, 1], [30, 60])[:, None]
    codes = np.concatenate([factors * 4.0 - 2, np.full((90, 4), 3.3)], axis=1)
    train, test = draw_split(90, 10_000, 5_000, np.random.default_rng(0))
    guess = (factors[test] == 1).mean()
    assert factors[train].mean() > 0.5
    assert sap(codes, factors)["sap"] == pytest.approx(1 - guess, rel=1e-9)


def test_order_and_sign_do_not_count():
    factors = draw_factors(400)
    codes = encode(factors, "noisy")
    expected = sap(codes, factors)
    assert sap(-codes[:, ::-1], factors) == pytest.approx(expected, rel=1e-9)
    assert sap(codes, factors[:, ::-1]) == pytest.approx(expected, rel=1e-9)


def test_the_seed_draws_the_samples_and_threads_change_nothing():
    factors = draw_factors(400)
    codes = encode(factors, "noisy").reshape(400, 3, 2)
    filters = list(warnings.filters)
    for per in ("dim", "subspace"):
        done = []
        first = sap(codes, factors, seed=1, per=per, n_jobs=3, progress=done.append)
        assert sap(codes, factors, seed=1, per=per) == first
        assert sap(codes, factors, seed=2, per=per) != first
        assert len(done) == (6 if per == "dim" else 3) * len(SIZES)
        assert sum(done) == pytest.approx(1)
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("per", ["dim", "subspace"])
@pytest.mark.parametrize("scale", [1e-6, 1e5])
def test_codes_of_any_scale_raise_no_warning(per, scale):
    factors = draw_factors(200)
    codes = scale * encode(factors, "noisy").reshape(200, 2, 3)
    assert 0 <= sap(codes, factors, per=per)["sap"] <= 1


@pytest.mark.parametrize("n", [3, 4, 7, 12])
@pytest.mark.parametrize("per", ["dim", "subspace"])
def test_few_samples(n, per):
    rng = np.random.default_rng(n)
    # The second factor has values that are in one part only, or in one sample.
    factors = np.stack([np.arange(n), np.arange(n) == 0], axis=1).astype(int)
    codes = rng.normal(size=(n, 2, 3))
    for seed in range(5):
        assert 0 <= sap(codes, factors, seed=seed, per=per)["sap"] <= 1


@pytest.mark.parametrize(
    ("codes", "factors", "per", "message"),
    [
        (np.ones((9, 1)), np.arange(9)[:, None], "dim", "there is one code: give at least 2"),
        (np.ones((9, 1, 4)), np.arange(9)[:, None], "subspace", "there is one code"),
        (np.full((9, 2), np.inf), np.arange(9)[:, None], "dim", "NaN or infinite"),
        (np.ones((9, 2)), np.zeros((9, 1), dtype=int), "dim", "one value only in 9 samples"),
        (np.ones((9, 2)), np.linspace(0, 1, 9)[:, None], "dim", "cut a continuous factor"),
        (np.ones((2, 2)), np.arange(2)[:, None], "dim", "there are 2 samples"),
    ],
)
def test_what_cannot_be_scored_is_refused(codes, factors, per, message):
    with pytest.raises(UserError, match=message) as error:
        sap(codes, factors, per=per)
    assert "\n" not in str(error.value)
