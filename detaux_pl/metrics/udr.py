"""Unsupervised disentanglement ranking: whether trainings agree on their codes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.inputs import (
    Floats,
    active_codes,
    as_dims,
    check_codes,
    draw_rows,
    quiet_fits,
)


def udr(
    models: Sequence[NDArray[np.floating]],
    *,
    method: Literal["spearman", "lasso"] = "spearman",
    seed: int = 0,
    n_samples: int = 10_000,
) -> Floats:
    """Score each of several trainings by how far its codes are those of the others, reordered.

    With R(a, b) the similarity of code a of one model and code b of another, in [0, 1], over the
    active codes of both, `UDR_ij = [sum_b r_b^2 / sum_a R(a, b) + sum_a r_a^2 / sum_b R(a, b)] /
    (d_i + d_j)`, r_b and r_a the largest values of column and row, d the numbers of active codes.
    The score of a model is the median over the others. Where all have the same independent codes
    up to order, sign and scale, it is 1, or 0.9 by lasso, whose penalty takes 0.1 off the weights.

    Args:
        models: Codes of each of M models, of the same samples, shapes (N, C) or (N, K, D).
        method: R by the absolute rank correlation (`spearman`), or by the absolute weights of
            `lasso` regressions (alpha 0.1) that predict a model's codes from another's.
        seed: Seed of the samples.
        n_samples: Number of samples to compare.

    Returns:
        Score of each model, shape (M,).

    Raises:
        ValueError: If the models are of different samples, or there is no such method.
        UserError: If there are fewer than two models, or a code is not finite.

    Example:
        >>> codes = np.random.default_rng(0).standard_normal((500, 3))
        >>> other = np.random.default_rng(1).standard_normal((500, 3))
        >>> udr([codes, -2.0 * codes[:, ::-1], other]).round(1)  # two trainings agree, one does not
        array([0.5, 0.5, 0. ])

    References:
        Duan et al. 2020, "Unsupervised Model Selection for Variational Disentangled Representation
        Learning", arXiv 1905.12614, section 4. Differs in: a code counts as active by its
        variance, see `active_codes`, where the paper has its divergence from the prior.
    """
    if method not in ("spearman", "lasso"):
        raise ValueError(f"method is {method!r}: give spearman or lasso.")
    if len(models) < 2:
        raise UserError(f"there are {len(models)} models: UDR compares at least 2 trainings.")
    dims = [as_dims(check_codes(codes)) for codes in models]
    n = len(dims[0])
    if any(len(codes) != n for codes in dims):
        raise ValueError(
            f"the models code {', '.join(str(len(codes)) for codes in dims)} samples: give codes "
            "of the same samples in the same order."
        )
    rows = draw_rows(n, n_samples, seed)
    prepared = [_prepare(codes[rows], method) for codes in dims]

    def score(pair: tuple[int, int]) -> float:
        own, other = (prepared[index] for index in pair)
        if not own.size or not other.size:
            return 0.0
        if method == "lasso":
            return _agreement(_lasso(other, own))
        return _agreement(np.abs(other.T @ own) / len(rows))

    pairs = list(permutations(range(len(models)), 2))
    with quiet_fits():
        table = np.reshape([score(pair) for pair in pairs], (len(models), len(models) - 1))
    scores: Floats = np.median(table, axis=1)
    return scores


def _prepare(codes: Floats, method: str) -> Floats:
    """Standardise the active codes, or their ranks."""
    codes = codes[:, active_codes(codes)]
    if method == "spearman":
        from scipy.stats import rankdata  # a second to import

        codes = rankdata(codes, axis=0)
    standard: Floats = (codes - codes.mean(axis=0)) / codes.std(axis=0)
    return standard


def _lasso(codes: Floats, targets: Floats) -> Floats:
    """Absolute weights with which codes of one model tell those of another, shape (C, C')."""
    from sklearn.linear_model import Lasso

    weights = Lasso(alpha=0.1).fit(codes, targets).coef_
    absolute: Floats = np.abs(np.atleast_2d(weights)).T
    return absolute


def _agreement(similarity: Floats) -> float:
    """How near a table of similarities, shape (C, C'), is to one that pairs codes off."""
    total = 0.0
    for axis in (0, 1):
        best, sums = similarity.max(axis=axis), similarity.sum(axis=axis)
        alike = sums > 0
        total += float((best[alike] ** 2 / sums[alike]).sum())
    return total / sum(similarity.shape)
