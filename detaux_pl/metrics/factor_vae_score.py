"""FactorVAE score: a majority vote of the codes that vary least."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.metrics.inputs import Floats, Ints, Per, active_codes, as_dims, check
from detaux_pl.metrics.shared_values import SharedValues

_CHUNK = 1 << 20
"""Numbers to hold at a time: 8 MB."""


def factor_vae_score(
    codes: NDArray[np.floating],
    factors: NDArray[np.integer],
    *,
    seed: int = 0,
    n_train: int = 10_000,
    n_test: int = 5_000,
    batch: int = 64,
    threshold: float = 0.05,
    per: Per = "dim",
) -> dict[str, float]:
    """Return how often the code that varies least gives away the factor that was held fixed.

    A vote draws a factor, and a batch of samples that share its value; the code with the least
    variance, relative to that over all samples, votes for the factor. The classifier takes the
    majority of the training votes of each code, the score is its accuracy on others. Survives a
    rotation of perfect codes, as long as each factor still moves one code more than the others
    do. Without a live code all votes are alike: the score is that of chance.

    Args:
        codes: Codes, shape (N, C) or (N, K, D).
        factors: Factors, integers, shape (N, F).
        seed: Seed of the votes.
        n_train: Number of votes to fit on. disentanglement_lib: 10,000.
        n_test: Number of votes to test on. disentanglement_lib: 5,000.
        batch: Number of samples of a vote. disentanglement_lib: 64.
        threshold: Share of the largest deviation below which a code is dead, see `active_codes`.
        per: Whether a code is a `dim` or a `subspace`, whose variance is the sum of its dims'.

    Returns:
        `factor_vae`.

    Raises:
        ValueError: If a number is not positive, or a batch has one sample.
        UserError: If a code is not finite, or a factor is continuous or has one value only.

    References:
        Kim & Mnih 2018, arXiv 1802.05983, section 4; disentanglement_lib. Differs in: batches are
        drawn with replacement from the given samples, where the library makes new images.
    """
    values, given = check(codes, factors)
    if min(n_train, n_test) < 1 or batch < 2:
        raise ValueError(
            f"n_train is {n_train}, n_test {n_test} and batch {batch}: give at least 1, 1 and 2."
        )
    dims = as_dims(values)
    alive = np.flatnonzero(active_codes(dims, threshold))
    owner = alive // values.shape[2] if per == "subspace" else alive
    _, group = np.unique(owner, return_inverse=True)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(given.shape[1], size=n_train + n_test)
    first = rng.integers(len(given), size=(len(chosen), 1)).repeat(batch, axis=1)
    rows = SharedValues(given).partners(chosen, first, rng)
    votes = _votes(dims[:, alive], group, rows)
    n_codes = max(1, group.max(initial=-1) + 1)
    table = np.zeros((n_codes, given.shape[1]), dtype=np.int64)
    np.add.at(table, (votes[:n_train], chosen[:n_train]), 1)
    predicted = table.argmax(axis=1)[votes[n_train:]]
    return {"factor_vae": float((predicted == chosen[n_train:]).mean())}


def _votes(live: Floats, group: Ints, rows: Ints) -> Ints:
    """Code, or group of codes, that varies least in each batch, shape (n,)."""
    n_groups = int(group.max(initial=-1)) + 1
    votes = np.zeros(len(rows), dtype=np.int64)
    if n_groups < 2:
        return votes
    members = np.zeros((live.shape[1], n_groups))
    members[np.arange(live.shape[1]), group] = 1.0
    whole = live.var(axis=0, ddof=1) @ members
    # Centred, so that sums of squares lose no digits.
    live = live - live.mean(axis=0)
    step = max(1, _CHUNK // (rows.shape[1] * live.shape[1]))
    for start in range(0, len(rows), step):
        part = live[rows[start : start + step]]  # n, b, c
        variance = part.var(axis=1, ddof=1)
        votes[start : start + step] = (variance @ members / whole).argmin(axis=1)
    return votes
