"""How sure a gain is that nets showed on folds of the same images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resampled_p(gains: NDArray[np.float64], n_folds: int) -> float:
    """Test whether gains on folds are above 0: a paired t-test, one-sided.

    It is corrected for the training images that folds share.

    Args:
        gains: On each fold of each cross-fit, shape (n,).
        n_folds: Number of folds of one.

    References:
        Nadeau & Bengio 2003, "Inference for the Generalization Error": the corrected resampled
        t-test.

    Example:
        >>> round(resampled_p(np.array([0.10, 0.12, 0.11, 0.09]), n_folds=4), 6)
        0.000885
    """
    from scipy.stats import t

    if not np.ptp(gains):
        return float(gains.mean() <= 0)
    error = gains.std(ddof=1) * np.sqrt(1 / len(gains) + 1 / (n_folds - 1))
    return float(t.sf(gains.mean() / error, len(gains) - 1))
