"""Mutual information gap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.inputs import as_dims, check, draw_rows
from detaux_pl.metrics.metric import Metric, Score
from detaux_pl.metrics.mutual_information import entropies, mutual_information


def mig(
    codes: NDArray[np.floating],
    factors: NDArray[np.integer],
    *,
    seed: int = 0,
    n_train: int = 10_000,
    n_bins: int = 20,
) -> dict[str, float]:
    """Return how far the best code of a factor is ahead of the second best.

    `mean_j (I(c_1; v_j) - I(c_2; v_j)) / H(v_j)`, of the two discretised codes that share most with
    the factor; in [0, 1], 1 where each factor is in one code and in no other.

    Args:
        codes: Codes, shape (N, C) or (N, K, D); of the latter every dimension is a code.
        factors: Factors, integers, shape (N, F).
        seed: Seed of the samples.
        n_train: Number of samples to use at most. disentanglement_lib: 10,000.
        n_bins: Number of bins of a code. disentanglement_lib: 20.

    Returns:
        `mig`.

    Raises:
        UserError: If there are fewer than two codes, one is not finite, or a factor is continuous
            or has one value only.

    Example:
        >>> factors = np.indices((3, 4)).reshape(2, -1).T.repeat(50, axis=0)
        >>> turned = factors @ [[0.6, 0.8], [-0.8, 0.6]]
        >>> [round(mig(codes, factors)["mig"], 1) for codes in (1.0 * factors, turned)]
        [1.0, 0.0]

    References:
        Chen et al. 2018, arXiv 1802.04942, section 4.1; disentanglement_lib.
    """
    values, given = check(codes, factors)
    dims = as_dims(values)
    if dims.shape[1] < 2:
        raise UserError(
            "MIG compares the best code with the second best, and there is one code: give at "
            "least 2, or leave mig out."
        )
    rows = draw_rows(len(dims), n_train, seed)
    shared = np.sort(mutual_information(dims[rows], given[rows], n_bins=n_bins), axis=0)
    return {"mig": float(((shared[-1] - shared[-2]) / entropies(given[rows])).mean())}


METRIC = Metric(
    key="mig",
    function=mig,
    scores={
        "mig": Score("MIG", "how much more the best code tells of a factor than the second best"),
    },
    place=1,
    least_codes=2,
)
