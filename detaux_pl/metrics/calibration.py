"""Whether probabilities are what they say: temperature and calibration error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TINY = float(np.finfo(np.float32).tiny)
"""Stands for a probability that underflowed to 0."""
_WIDEST = np.log(100.0)
"""Temperatures are sought between 1/100 and 100."""


def scale(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Make probabilities flatter (temperature above 1) or sharper (below 1).

    Those of a network are then the softmax of its logits over the temperature (Guo et al. 2017).

    Args:
        probabilities: Shape (N, C).
        temperature: Positive.

    Returns:
        Shape (N, C); rows add up to 1, and the order within each stays.

    Example:
        >>> scale(np.array([[0.8, 0.2]]), 2.0).round(3)
        array([[0.667, 0.333]])
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), TINY)) / temperature
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(probabilities: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """Find the temperature at which held-out labels are the likeliest (Guo et al. 2017).

    Args:
        probabilities: Of images that the network was not trained on, shape (N, C).
        targets: Their labels, shape (N,); negative ones are left out.

    Returns:
        Between 1/100 and 100; 1 where there is no label.

    Example:
        >>> sure = np.array([[0.99, 0.01]] * 4)
        >>> temperature = fit_temperature(sure, np.array([0, 0, 0, 1]))
        >>> scale(sure, temperature)[0].round(2)  # right three times of four
        array([0.75, 0.25])
    """
    known = targets >= 0
    if not known.any():
        return 1.0
    logits = np.log(np.maximum(probabilities[known].astype(np.float64), TINY))
    own = logits[np.arange(len(logits)), targets[known]]

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        top = z.max(axis=1)
        total = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
        return float((total - own / np.exp(log_temperature)).mean())

    # In the logarithm of the temperature the loss falls to one minimum and rises again.
    from scipy.optimize import minimize_scalar  # a quarter of a second to import

    found = minimize_scalar(loss, bounds=(-_WIDEST, _WIDEST), method="bounded")
    return float(np.exp(found.x))


def expected_calibration_error(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64], n_bins: int = 15
) -> float:
    """Mean distance between how sure predictions are and how often they are right.

    Images are put into bins of equal width by the probability of the predicted class, and each
    bin counts by its number of images (Guo et al. 2017).

    Args:
        probabilities: Shape (N, C).
        targets: Labels, shape (N,); negative ones are left out.
        n_bins: Number of bins.

    Returns:
        In [0, 1]; NaN where there is no label.

    Example:
        >>> sure = np.array([[0.9, 0.1]] * 10)
        >>> round(expected_calibration_error(sure, np.array([0] * 7 + [1] * 3)), 3)
        0.2
    """
    return mean_gap(reliability(probabilities, targets, n_bins))


def mean_gap(bins: Sequence[tuple[float, float, int]]) -> float:
    """Mean distance of probability and accuracy of bins, each by its number of images.

    Args:
        bins: What `reliability` gives.

    Returns:
        In [0, 1]; NaN where there is no bin.
    """
    n_images = sum(n for _, _, n in bins)
    gaps = sum(n * abs(sure - right) for sure, right, n in bins)
    return gaps / n_images if n_images else float("nan")


def reliability(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64], n_bins: int = 15
) -> list[tuple[float, float, int]]:
    """Tell how sure predictions are and how often they are right, bin by bin.

    Args:
        probabilities: Shape (N, C).
        targets: Labels, shape (N,); negative ones are left out.
        n_bins: Number of bins of equal width.

    Returns:
        Mean probability of the predicted class, accuracy and number of images of each bin that
        has any.

    Example:
        >>> reliability(np.array([[0.9, 0.1]] * 4), np.array([0, 0, 0, 1]))
        [(0.9, 0.75, 4)]
    """
    known = targets >= 0
    given = probabilities[known]
    sure = given.max(axis=1).astype(np.float64)
    right = given.argmax(axis=1) == targets[known]
    bins = np.clip(np.ceil(sure * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    return [
        (float(sure[own].mean()), float(right[own].mean()), int(own.sum()))
        for own in (bins == k for k in range(n_bins))
        if own.any()
    ]
