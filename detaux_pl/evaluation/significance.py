"""What a handful of seeds allows one to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.05
"""p-value below which the project speaks of a difference."""


@dataclass(frozen=True)
class Summary:
    """Mean of n runs with its spread.

    Args:
        n: Number of runs.
        mean: Their mean.
        std: Sample standard deviation (n - 1 in the denominator); None for one run.
        low: Lower end of the confidence interval of the mean; None for one run.
        high: Upper end.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedTest:
    """Paired t-test of two methods over the seeds that both have.

    Args:
        difference: Summary of first minus second, seed by seed.
        p_value: Two-sided; None for one pair. Where all differences are alike the statistic has
            no variance to be held against: 1 if they are zero, else None.
    """

    difference: Summary
    p_value: float | None


def summarise(values: ArrayLike, confidence: float = 0.95) -> Summary:
    """Summarise runs by their mean and its Student t interval.

    The interval is `mean ± t * std / sqrt(n)` with t the quantile of n - 1 degrees of freedom.

    Args:
        values: One value per run, shape (n,).
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: If there is no run, or a value is not finite.
    """
    runs = np.asarray(values, dtype=np.float64)
    if runs.ndim != 1 or not runs.size or not np.isfinite(runs).all():
        raise ValueError(f"values are {runs.tolist()}: give one finite number per run.")
    mean = float(runs.mean())
    if runs.size == 1:
        return Summary(1, mean, None, None, None)
    std = float(runs.std(ddof=1))
    half = float(stats.t.ppf(0.5 + confidence / 2, runs.size - 1)) * std / runs.size**0.5
    return Summary(runs.size, mean, std, mean - half, mean + half)


def paired_test(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> PairedTest:
    """Test whether two methods differ in the mean, with the seeds as pairs.

    Args:
        first: One value per seed, shape (n,).
        second: The same seeds in the same order, shape (n,).
        confidence: Coverage of the interval of the difference, in (0, 1).

    Raises:
        ValueError: If the two do not pair up, there is no pair, or a value is not finite.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} and {b.size} runs do not pair up: give both for each seed.")
    difference = summarise(a - b, confidence)
    if difference.std is None:
        return PairedTest(difference, None)
    # Differences of equal gaps differ in their last bits, which is not variance.
    if difference.std <= 1e-12 * float(np.abs([a, b]).max()):
        same = np.allclose(a, b, rtol=1e-12, atol=0.0)
        return PairedTest(difference, 1.0 if same else None)
    t = difference.mean / (difference.std / difference.n**0.5)
    return PairedTest(difference, 2.0 * float(stats.t.sf(abs(t), difference.n - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of tests, in the order given.

    The i-th smallest of m becomes `max_{j <= i} min(1, (m - j) p_(j))` with j counted from 0:
    controls the probability of any false discovery, under any dependence.

    References:
        Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    raised = np.minimum(1.0, p[order] * (p.size - np.arange(p.size)))
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(raised)
    return [float(value) for value in corrected]
