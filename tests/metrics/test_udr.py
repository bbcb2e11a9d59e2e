import numpy as np
import pytest
from scipy.stats import ortho_group, spearmanr
from sklearn.linear_model import Lasso

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.udr import udr
from tests.factor_codes import draw_factors, encode


def naive_pair(own, other, method):
    """UDR of a pair of models whose codes are all active, sums written out."""
    n_other, n_own = other.shape[1], own.shape[1]
    if method == "spearman":
        table = [[abs(spearmanr(a, b).statistic) for b in own.T] for a in other.T]
    else:
        other, own = ((x - x.mean(axis=0)) / x.std(axis=0) for x in (other, own))
        fits = [Lasso(alpha=0.1).fit(other, code).coef_ for code in own.T]
        table = [[abs(fits[b][a]) for b in range(n_own)] for a in range(n_other)]
    total = 0.0
    for b in range(n_own):
        column = [table[a][b] for a in range(n_other)]
        total += max(column) ** 2 / sum(column) if sum(column) else 0.0
    for row in table:
        total += max(row) ** 2 / sum(row) if sum(row) else 0.0
    return total / (n_own + n_other)


def naive(models, method):
    scores = []
    for i, own in enumerate(models):
        others = models[:i] + models[i + 1 :]
        scores.append(np.median([naive_pair(own, other, method) for other in others]))
    return scores


def uncorrelated(n=512, n_codes=4, seed=0):
    """Codes whose sample correlations, and those of their ranks, are 0."""
    signs = np.array([[(i >> k & 1) * 2 - 1 for k in range(n_codes)] for i in range(n)])
    return np.random.default_rng(seed).permutation(signs.astype(float))


@pytest.mark.parametrize("method", ["spearman", "lasso"])
def test_equals_loops_over_pairs_of_codes(method):
    factors = draw_factors(300)
    models = [
        encode(factors, "noisy", 1),
        encode(factors, "rotated"),
        encode(factors, "noisy", 2)[:, :5],
        encode(factors, "perfect"),
    ]
    np.testing.assert_allclose(udr(models, method=method), naive(models, method), rtol=1e-9)


@pytest.mark.parametrize(("method", "expected"), [("spearman", 1.0), ("lasso", 0.9)])
def test_the_same_codes_in_another_guise_agree(method, expected):
    codes = uncorrelated()
    models = [codes, codes[:, [2, 0, 3, 1]] * [-1, 5, -0.5, 1] + 3, codes[:, ::-1]]
    assert udr(models, method=method) == pytest.approx([expected] * 3, rel=1e-9)


def test_ranks_see_any_monotone_change():
    codes = np.random.default_rng(0).normal(size=(300, 3))
    changed = np.stack([np.exp(codes[:, 2]), codes[:, 0] ** 3, -codes[:, 1]], axis=1)
    assert udr([codes, changed]) == pytest.approx(udr([codes, codes]), rel=1e-9)


@pytest.mark.parametrize(("method", "least"), [("spearman", 0.9), ("lasso", 0.85)])
def test_known_codes(method, least):
    # The correlations by chance of that many samples hardly count.
    perfect = np.random.default_rng(0).normal(size=(20_000, 4))
    models = [perfect, -perfect[:, ::-1], perfect[:, [1, 0, 3, 2]]]
    assert udr(models, method=method, n_samples=20_000).min() > least
    rng = np.random.default_rng(1)
    independent = [rng.normal(size=(20_000, 4)) for _ in range(3)]
    assert udr(independent, method=method, n_samples=20_000).max() < 0.02
    rotated = [perfect @ ortho_group.rvs(4, random_state=seed) for seed in range(3)]
    assert udr(rotated, method=method, n_samples=20_000).max() < 0.5
    mixed = udr([*models, rotated[0]], method=method)
    assert mixed.argmin() == 3


@pytest.mark.parametrize("method", ["spearman", "lasso"])
def test_dead_codes_do_not_count(method):
    codes = uncorrelated()
    more = np.concatenate([codes, np.full((512, 2), 0.3), 1e-4 * codes[::-1]], axis=1)
    expected = udr([codes, codes], method=method)
    assert udr([codes, more], method=method) == pytest.approx(expected, rel=1e-9)
    # A collapsed model agrees with none, not even with another one.
    dead = np.zeros((512, 4))
    collapsed = udr([codes, codes, dead, dead, codes], method=method)
    assert collapsed == pytest.approx([expected[0] / 2] * 2 + [0] * 2 + [expected[0] / 2])


def test_copies_within_a_model_raise_no_warning():
    codes = encode(draw_factors(200), "duplicated")
    scores = udr([codes, codes[:, ::-1], np.repeat(codes, 2, axis=1)], method="lasso")
    assert (scores < 0.95).all()


def test_subspaces_and_seed():
    factors = draw_factors(600)
    models = [encode(factors, "noisy", seed) for seed in range(3)]
    first = udr(models, seed=1, n_samples=200)
    blocks = [codes.reshape(600, 3, 2) for codes in models]
    np.testing.assert_allclose(udr(blocks, seed=1, n_samples=200), first, rtol=1e-9)
    assert (udr(models, seed=2, n_samples=200) != first).all()
    np.testing.assert_array_equal(udr(models, seed=2), udr(models, seed=1))


def test_what_cannot_be_compared_is_refused():
    codes = np.random.default_rng(0).normal(size=(9, 2))
    with pytest.raises(UserError, match="there are 1 models: UDR compares at least 2"):
        udr([codes])
    with pytest.raises(ValueError, match="method is 'pearson': give spearman or lasso"):
        udr([codes, codes], method="pearson")
    with pytest.raises(ValueError, match="9, 8 samples"):
        udr([codes, codes[:8]])
    with pytest.raises(UserError, match="NaN or infinite"):
        udr([codes, codes * np.nan])
