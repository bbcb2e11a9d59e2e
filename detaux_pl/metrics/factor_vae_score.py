"""FactorVAE score: a majority vote of the codes that vary least."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.metrics.inputs import Floats, Ints, Per, active_codes, as_dims, check
from detaux_pl.metrics.metric import Metric, Score
from detaux_pl.metrics.shared_values import SharedValues

_CHUNK = 1 << 17
"""Numbers to gather at a time: 1 MB, which stays in the cache."""


def factor_vae_score(
    codes: NDArray[np.floating],
    factors: NDArray[np.integer],
    *,
    seed: int = 0,
    n_votes_train: int = 10_000,
    n_votes_test: int = 5_000,
    batch: int = 64,
    threshold: float = 0.05,
    per: Per = "dim",
) -> dict[str, float]:
    """Return how often the code that varies least gives away the factor that was held fixed.

    A vote draws a factor, and a batch of samples that share its value; the code with the least
    variance, relative to that over all samples, votes for the factor. The classifier takes the
    majority of the training votes of each code, the score is its accuracy on others. All given
    samples take part in both, as the library draws both from the same images. Survives a rotation
    of perfect codes that leaves each factor another code that it moves most. Where no code is
    alive all votes are alike, and the score is that of chance, about 1/F.

    Args:
        codes: Codes, shape (N, C) or (N, K, D).
        factors: Factors, integers, shape (N, F).
        seed: Seed of the votes.
        n_votes_train: Number of votes to fit on. disentanglement_lib: 10,000.
        n_votes_test: Number of votes to test on. disentanglement_lib: 5,000.
        batch: Number of samples of a vote. disentanglement_lib: 64.
        threshold: Share of the largest deviation below which a code is dead, see `active_codes`.
        per: Whether a code is a `dim` or a `subspace`, whose variance is the sum of its dims'.

    Returns:
        `factor_vae`.

    Raises:
        ValueError: If a number is not positive, or a batch has one sample.
        UserError: If a code is not finite, or a factor is continuous or has one value only.

    Example:
        >>> factors = np.indices((3, 4)).reshape(2, -1).T.repeat(50, axis=0)
        >>> factor_vae_score(1.0 * factors, factors, n_votes_train=100, n_votes_test=50)
        {'factor_vae': 1.0}

    References:
        Kim & Mnih 2018, arXiv 1802.05983, section 4; disentanglement_lib. Differs in: batches are
        drawn with replacement from the given samples, where the library makes new images.
    """
    values, given = check(codes, factors)
    if min(n_votes_train, n_votes_test) < 1 or batch < 2:
        raise ValueError(
            f"n_votes_train is {n_votes_train}, n_votes_test {n_votes_test} and batch {batch}: "
            "give at least 1, 1 and 2."
        )
    dims = as_dims(values)
    alive = np.flatnonzero(active_codes(dims, threshold))
    owner = alive // values.shape[2] if per == "subspace" else alive
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    rng = np.random.default_rng(seed)
    chosen = rng.integers(given.shape[1], size=n_votes_train + n_votes_test)
    first = rng.integers(len(given), size=(len(chosen), 1)).repeat(batch, axis=1)
    rows = SharedValues(given).partners(chosen, first, rng)
    votes = _votes(dims[:, alive], starts, rows)
    table = np.zeros((max(1, len(starts)), given.shape[1]), dtype=np.int64)
    np.add.at(table, (votes[:n_votes_train], chosen[:n_votes_train]), 1)
    predicted = table.argmax(axis=1)[votes[n_votes_train:]]
    return {"factor_vae": float((predicted == chosen[n_votes_train:]).mean())}


def _votes(live: Floats, starts: Ints, rows: Ints) -> Ints:
    """Vote of each batch: the code that varies least.

    Args:
        live: Dimensions that are alive, shape (N, c).
        starts: First dimension of each code, ascending.
        rows: Samples of each batch, shape (n, b).

    Returns:
        Index of the code, shape (n,).
    """
    votes = np.zeros(len(rows), dtype=np.int64)
    if len(starts) < 2:
        return votes
    whole = np.add.reduceat(live.var(axis=0), starts)
    step = max(1, _CHUNK // (rows.shape[1] * live.shape[1]))
    for start in range(0, len(rows), step):
        part = live.take(rows[start : start + step], axis=0)  # n, b, c
        part -= np.einsum("nbc->nc", part)[:, None] / rows.shape[1]
        variance = np.einsum("nbc,nbc->nc", part, part)
        variance = np.add.reduceat(variance, starts, axis=1)
        votes[start : start + step] = (variance / whole).argmin(axis=1)
    return votes


METRIC = Metric(
    key="factor_vae",
    function=factor_vae_score,
    scores={
        "factor_vae": Score(
            "FactorVAE score", "whether the code that varies least tells which factor is kept"
        ),
    },
    place=4,
    least_factors=2,
    per_subspace=True,
)
