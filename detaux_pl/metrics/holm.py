"""p-values of several tests, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of tests, in the order given.

    The i-th smallest of m becomes `max_{j <= i} min(1, (m - j) p_(j))` with j counted from 0:
    controls the probability of any false discovery, under any dependence.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    References:
        Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    raised = np.minimum(1.0, p[order] * (p.size - np.arange(p.size)))
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(raised)
    return [float(value) for value in corrected]
