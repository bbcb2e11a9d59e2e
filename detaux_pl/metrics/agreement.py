"""How far two labellings of the same samples say the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def contingency(
    first: NDArray[np.int64], second: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Count the samples of every pair of classes.

    Args:
        first: Class of each sample in one labelling, shape (n,), from 0.
        second: Its class in the other.
        shape: Number of classes of each.

    Returns:
        Counts, of that shape.
    """
    table = np.zeros(shape, dtype=np.int64)
    np.add.at(table, (first, second), 1)
    return table


def agreement(known: NDArray[np.int64], discovered: NDArray[np.int64]) -> dict[str, float]:
    """Compare a discovered labelling with a known one.

    Everything follows from the contingency table of the two and ignores how the classes are
    numbered. Where a labelling has one class only it tells nothing, and the limits hold: `nmi`
    and `ami` are 0 (1 where both have one class), the homogeneity of a single-class `known` and
    the completeness of a single-class `discovered` are 1, and independence cannot be refuted:
    `chi2` is 0 with 0 degrees of freedom, `p_value` 1 and `cramers_v` 0.

    Args:
        known: Integer class of each sample, shape (n,).
        discovered: Integer cluster of each sample, shape (n,); a negative value is a class like
            any other, so leave out what shall not count.

    Returns:
        `nmi` and `ami`: normalised and adjusted mutual information, arithmetic averaging.
        `homogeneity`: 1 where every cluster holds one class; `completeness`: 1 where every class
        lies in one cluster. `chi2`, `p_value` and `dof` of Pearson's test without continuity
        correction, whose null hypothesis is INDEPENDENCE: a p-value near 0 says that the two
        labellings depend on each other, however weakly; how strongly, says `cramers_v`, from 0
        (independent) to 1.

    Raises:
        ValueError: If the labellings are empty or differ in length.

    Example:
        >>> known = np.repeat([0, 1, 2], 20)
        >>> found = agreement(known, np.minimum(known, 1))  # two classes in one cluster
        >>> round(found["nmi"], 2), round(found["homogeneity"], 2), round(found["completeness"], 2)
        (0.73, 0.58, 1.0)

    References:
        Skenderi et al., Detaux, table 3, which reads p ~ 0 as "uncorrelated"; it is the opposite.
    """
    if known.shape != discovered.shape or known.ndim != 1 or known.size == 0:
        raise ValueError(
            f"labels of shapes {known.shape} and {discovered.shape}: give two vectors of the "
            "same samples, at least one."
        )
    from scipy.stats import chi2_contingency  # a second to import, and only reports need it
    from sklearn import metrics

    # Classes that do not occur would make the expected counts 0.
    row = np.unique(known, return_inverse=True)[1]
    column = np.unique(discovered, return_inverse=True)[1]
    table = contingency(row, column, (row.max() + 1, column.max() + 1))
    test = chi2_contingency(table, correction=False)
    degrees = min(table.shape) - 1
    return {
        "nmi": float(metrics.normalized_mutual_info_score(row, column)),
        "ami": float(metrics.adjusted_mutual_info_score(row, column)),
        "homogeneity": float(metrics.homogeneity_score(row, column)),
        "completeness": float(metrics.completeness_score(row, column)),
        "chi2": float(test.statistic),
        "p_value": float(test.pvalue),
        "dof": float(test.dof),
        "cramers_v": float(np.sqrt(test.statistic / (known.size * degrees))) if degrees else 0.0,
    }
