"""How independent the codes are of each other: scores that need no factors."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.metrics.inputs import Floats, Per, active_codes, as_dims, check_codes, draw_rows
from detaux_pl.metrics.metric import Metric, Score
from detaux_pl.metrics.mutual_information import discretise, entropies, joint_entropy

_LEAST_EIGENVALUE = 1e-6
"""What an eigenvalue of a correlation matrix counts at least: that of exact copies is 0."""
_FROM_0 = (0.0, math.inf)


def unsupervised(
    codes: NDArray[np.floating],
    factors: NDArray[np.integer] | None = None,
    *,
    seed: int = 0,
    n_train: int = 10_000,
    per: Per = "dim",
    n_bins: int = 20,
) -> dict[str, float]:
    """Return three measures of the dependence between codes; 0 for independent ones.

    Codes that hardly vary are left out, see `active_codes`. With S the covariance of the others
    and D its diagonal:

    - `gaussian_total_correlation`: `(log det D - log det S) / 2` [nats], by the eigenvalues of the
      correlation matrix, each at least 1e-6: a copy of a code adds 6.6 nats, not infinity.
    - `gaussian_wasserstein`: squared Wasserstein distance of N(0, S) and N(0, D),
      `2 tr S - 2 tr (D^1/2 S D^1/2)^1/2`, in squared units of the codes; and
      `gaussian_wasserstein_normalized`, divided by tr S.
    - `mean_mutual_information`: of all pairs of discretised codes [nats].

    Per subspace there is the first alone, with the blocks of the subspaces for D.

    Args:
        codes: Codes, shape (N, C) or (N, K, D).
        factors: Not used.
        seed: Seed of the samples.
        n_train: Number of samples to use at most. disentanglement_lib: 10,000.
        per: Whether a code is a `dim` or a `subspace`.
        n_bins: Number of bins of a code. disentanglement_lib: 20.

    Returns:
        The scores by name.

    Raises:
        UserError: If a code is not finite.

    Example:
        >>> factors = np.indices((3, 4)).reshape(2, -1).T.repeat(50, axis=0)
        >>> scores = unsupervised(np.hstack([factors, factors[:, :1]]) * 1.0)  # one code is a copy
        >>> round(scores["gaussian_total_correlation"], 1)
        6.6

    References:
        Locatello et al. 2019, arXiv 1811.12359, appendix; disentanglement_lib.
    """
    values = check_codes(codes)
    values = values[draw_rows(len(values), n_train, seed)]
    dims = as_dims(values)
    alive = np.flatnonzero(active_codes(dims))
    subspaces = alive // values.shape[2] if per == "subspace" else np.arange(len(alive))
    dims = dims[:, alive]
    centred = dims - dims.mean(axis=0)
    covariance = centred.T @ centred / max(1, len(dims) - 1)
    scores = {"gaussian_total_correlation": _total_correlation(covariance, subspaces)}
    if per == "subspace":
        return scores
    wasserstein = _wasserstein(covariance)
    return {
        **scores,
        "gaussian_wasserstein": wasserstein,
        "gaussian_wasserstein_normalized": wasserstein / max(float(np.trace(covariance)), 1e-300),
        "mean_mutual_information": _mean_information(dims, n_bins),
    }


def _mean_information(codes: Floats, n_bins: int) -> float:
    """Mean mutual information [nats] of all pairs of codes; 0 where there is no pair."""
    if codes.shape[1] < 2:
        return 0.0
    bins = discretise(codes, n_bins)
    joint = np.mean([joint_entropy(*pair) for pair in combinations(bins.T.copy(), 2)])
    # Each code is in as many pairs as any other.
    return max(0.0, float(2 * entropies(bins).mean() - joint))


def _total_correlation(covariance: Floats, groups: NDArray[np.int64]) -> float:
    """Total correlation [nats] of a Gaussian between groups of dimensions."""
    scale = np.sqrt(covariance.diagonal())
    correlation = covariance / np.outer(scale, scale)
    inside = sum(
        _log_det(correlation[np.ix_(groups == group, groups == group)])
        for group in np.unique(groups)
    )
    return max(0.0, 0.5 * float(inside - _log_det(correlation)))


def _log_det(correlation: Floats) -> float:
    eigenvalues = np.linalg.eigvalsh(correlation)
    return float(np.log(np.maximum(eigenvalues, _LEAST_EIGENVALUE)).sum())


def _wasserstein(covariance: Floats) -> float:
    scale = np.sqrt(covariance.diagonal())
    # The square root of a product of two symmetric matrices, by one that is symmetric.
    eigenvalues = np.linalg.eigvalsh(scale[:, None] * covariance * scale)
    root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    return max(0.0, float(2 * np.trace(covariance) - 2 * root))


METRIC = Metric(
    key="unsupervised",
    function=unsupervised,
    scores={
        "gaussian_total_correlation": Score(
            "Gaussian total correlation [nats]",
            "dependence of the codes on each other, were they Gaussian",
            "lower",
            _FROM_0,
        ),
        "gaussian_wasserstein": Score(
            "Gaussian Wasserstein distance",
            "from the codes to independent ones, were they Gaussian; in their unit, squared",
            "lower",
            _FROM_0,
        ),
        "gaussian_wasserstein_normalized": Score(
            "Gaussian Wasserstein distance, normalised",
            "the same as a share of the variance of the codes",
            "lower",
            _FROM_0,
        ),
        "mean_mutual_information": Score(
            "mean mutual information [nats]", "between two codes", "lower", _FROM_0
        ),
    },
    name="the scores without factors",
    place=9,
    least_factors=0,
    per_subspace=True,
)
