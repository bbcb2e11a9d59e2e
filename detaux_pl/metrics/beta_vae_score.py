"""BetaVAE score: a linear classifier of the differences of pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.metrics.inputs import Floats, Ints, Per, as_dims, check, quiet_fits
from detaux_pl.metrics.metric import Metric, Score
from detaux_pl.metrics.shared_values import SharedValues

_CHUNK = 1 << 17
"""Numbers to gather at a time: 1 MB, which stays in the cache."""


def beta_vae_score(
    codes: NDArray[np.floating],
    factors: NDArray[np.integer],
    *,
    seed: int = 0,
    n_points_train: int = 10_000,
    n_points_test: int = 5_000,
    batch: int = 64,
    per: Per = "dim",
) -> dict[str, float]:
    """Return how well a linear classifier tells, from differences of codes, what pairs share.

    A point draws a factor and a batch of pairs that agree in it; its features are the mean absolute
    differences of the codes of the pairs. The score is the test accuracy of logistic regression,
    which is to name the factor. Survives a rotation of perfect codes that leaves each factor a
    profile of its own; with many factors these may be too alike for a batch to tell.

    Args:
        codes: Codes, shape (N, C) or (N, K, D).
        factors: Factors, integers, shape (N, F).
        seed: Seed of the points.
        n_points_train: Number of points to fit on. disentanglement_lib: 10,000.
        n_points_test: Number of points to test on. disentanglement_lib: 5,000.
        batch: Number of pairs of a point. disentanglement_lib: 64.
        per: Whether a code is a `dim` or a `subspace`, whose difference is the Euclidean distance.

    Returns:
        `beta_vae`.

    Raises:
        ValueError: If a number is not positive.
        UserError: If a code is not finite, or a factor is continuous or has one value only.

    Example:
        >>> factors = np.indices((3, 4)).reshape(2, -1).T.repeat(50, axis=0)
        >>> beta_vae_score(1.0 * factors, factors, n_points_train=100, n_points_test=50)
        {'beta_vae': 1.0}

    References:
        Higgins et al. 2017, beta-VAE, section 3; disentanglement_lib. Differs in: pairs are
        drawn with replacement from the given samples, where the library makes new images.
    """
    values, given = check(codes, factors)
    if min(n_points_train, n_points_test, batch) < 1:
        raise ValueError(
            f"n_points_train is {n_points_train}, n_points_test {n_points_test} and batch {batch}: "
            "give at least 1 of each."
        )
    if per == "dim":
        values = as_dims(values)[..., None]
    rng = np.random.default_rng(seed)
    chosen = rng.integers(given.shape[1], size=n_points_train + n_points_test)
    first = rng.integers(len(given), size=(len(chosen), batch))
    pairs = np.stack([first, SharedValues(given).partners(chosen, first, rng)])
    known, asked = chosen[:n_points_train], chosen[n_points_train:]
    if (known == known[0]).all():
        return {"beta_vae": float((asked == known[0]).mean())}
    points = _points(values, pairs)
    from sklearn.linear_model import LogisticRegression  # a second to import

    model = LogisticRegression()
    with quiet_fits():
        model.fit(points[:n_points_train], known)
    return {"beta_vae": float(model.score(points[n_points_train:], asked))}


def _points(values: Floats, pairs: Ints) -> Floats:
    """Mean distance of the pairs in every code, shape (n, C), of pairs, shape (2, n, b)."""
    n, batch = pairs.shape[1:]
    points = np.empty((n, values.shape[1]))
    step = max(1, _CHUNK // (batch * values[0].size))
    for start in range(0, n, step):
        part = pairs[:, start : start + step]
        apart = values.take(part[0], axis=0)  # n, b, c, d
        apart -= values.take(part[1], axis=0)
        distance = np.abs(apart[..., 0]) if values.shape[2] == 1 else np.linalg.norm(apart, axis=-1)
        points[start : start + step] = np.einsum("nbc->nc", distance) / batch
    return points


METRIC = Metric(
    key="beta_vae",
    function=beta_vae_score,
    scores={
        "beta_vae": Score(
            "BetaVAE score",
            "whether a linear classifier tells from the moves of codes which factor is kept",
        ),
    },
    place=5,
    least_factors=2,
    per_subspace=True,
)
