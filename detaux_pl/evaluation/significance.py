"""What a handful of seeds, or of images, allows one to say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit  # scipy.stats takes half a second to import

LEVEL = 0.05
"""p-value below which the project speaks of a difference."""
RESAMPLES = 2000
"""How often a bootstrap draws."""


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
    half = float(stdtrit(runs.size - 1, 0.5 + confidence / 2)) * std / runs.size**0.5
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
    return PairedTest(difference, 2.0 * float(stdtr(difference.n - 1, -abs(t))))


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval of a share, which stays within 0 and 1 and is of use where n is small.

    `(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)` with p the share and z
    the normal quantile.

    Args:
        successes: How many of n.
        n: Number of trials.
        confidence: Coverage, in (0, 1).

    Returns:
        Lower and upper end; None without a trial.

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Example:
        >>> [round(end, 3) for end in wilson(8, 10)]
        [0.49, 0.943]
    """
    if n == 0:
        return None
    low, high = wilson_ends(np.array(successes), np.array(n), confidence)
    return float(low), float(high)


def wilson_ends(
    successes: NDArray[np.integer], n: NDArray[np.integer], confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of many intervals, as `wilson` gives one; NaN without a trial."""
    z = float(ndtri(0.5 + confidence / 2))
    trials = np.where(n > 0, n, np.nan)
    share, whole = successes / trials, 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / whole
    half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / whole
    # At 0 and 1 the ends are exact but for rounding.
    low, high = np.where(share == 0, 0.0, middle - half), np.where(share == 1, 1.0, middle + half)
    return low, high


def bootstrap_mean(
    values: NDArray[np.generic], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean over images that are drawn with replacement.

    Made for values of few kinds, such as right (1) and wrong (0): how many of each kind are in a
    resample is multinomial, so its images need not be drawn one by one.

    Args:
        values: One per image, shape (n,), n > 0.
        confidence: Coverage, in (0, 1).
        seed: Of the draws.

    References:
        Efron 1979, "Bootstrap methods: another look at the jackknife".

    Example:
        >>> low, high = bootstrap_mean(np.array([1] * 80 + [0] * 20))
        >>> 0.70 < low < 0.74, 0.86 < high < 0.90
        (True, True)
    """
    kinds, counts = np.unique(values, return_counts=True)
    n = len(values)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES) @ kinds / n
    tails = (0.5 - confidence / 2, 0.5 + confidence / 2)
    low, high = np.quantile(drawn, tails)
    return float(low), float(high)
