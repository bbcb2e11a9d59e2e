"""Factors drawn uniformly, and codes of them of which it is known how good they are."""

import numpy as np
from scipy.stats import ortho_group

SIZES = (3, 4, 5, 6)


def draw_factors(n=3000, sizes=SIZES, seed=0):
    """Factors, shape (n, F)."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size, n) for size in sizes], axis=1)


def encode(factors, kind, seed=0):
    """Codes of a known kind, at least as many as factors."""
    n, n_factors = factors.shape
    perfect = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    rng = np.random.default_rng(seed)
    if kind == "rotated":
        return perfect @ ortho_group.rvs(n_factors, random_state=seed)
    if kind == "noisy":
        mixed = perfect @ rng.normal(size=(n_factors, n_factors + 2))
        return mixed + 0.3 * rng.normal(size=(n, n_factors + 2))
    return {
        "perfect": perfect,
        "constant": np.tile(np.arange(n_factors) / 3, (n, 1)),
        "duplicated": np.concatenate([perfect, perfect], axis=1),
        "random": rng.normal(size=(n, 10)),
        "with_dead": np.concatenate([perfect, np.full((n, 3), 0.1)], axis=1),
    }[kind]
