"""A linear classifier on fixed features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.models.principal_axes import principal_axes

Array = NDArray[np.float64]

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
"""Inverse strengths C of the L2 penalty, for rows whose mean squared norm is 1."""
_UNSEEN = 20.0
"""What a class without a row has less of logit than the mean of the others: its probability is
below exp(-20) everywhere, and no loss is infinite."""


class LinearProbe(NamedTuple):
    """A linear layer and its softmax.

    Args:
        weight: Shape (C, d).
        bias: Shape (C,).
    """

    weight: Array
    bias: Array

    def logits(self, x: NDArray[np.floating]) -> Array:
        """Return the logits of rows (n, d), shape (n, C)."""
        scores: Array = x @ self.weight.T + self.bias
        return scores

    def probabilities(self, x: NDArray[np.floating]) -> Array:
        """Return the probabilities of rows (n, d), shape (n, C)."""
        return np.exp(_log_softmax(self.logits(x)))

    def log_likelihood(self, x: NDArray[np.floating], labels: NDArray[np.integer]) -> Array:
        """Return the log-probability of the label of each row [nats], shape (n,)."""
        picked: Array = np.take_along_axis(_log_softmax(self.logits(x)), labels[:, None], 1)[:, 0]
        return picked


def fit_linear_probe(
    features: NDArray[np.floating],
    labels: NDArray[np.integer],
    n_classes: int,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
) -> LinearProbe:
    """Fit a multinomial logistic regression, its L2 penalty chosen by cross-validation.

    Features are centred and divided by one number, the root of their total variance: dividing
    each by its own deviation makes the noise of the weak ones as large as the strong ones, which
    costs most where labels are few. Of the strengths, the one with the highest log-likelihood on
    folds left out is taken.

    Args:
        features: Shape (n, d).
        labels: Class of each row, from 0, shape (n,).
        n_classes: Number of classes C. Those without a row get a probability below 2.1e-9.
        seed: Of the folds.
        strengths: Inverse strengths C to choose from, each > 0: the loss is the penalty
            `|weight|^2 / 2` and C times the sum of the cross-entropies.
        folds: Number of folds, at least 2; each has rows of every class that has so many.

    Returns:
        The probe, for features as given.

    Raises:
        ValueError: If shapes do not fit, there is no row, a label is not from 0 to C - 1, or a
            setting is outside its range.

    Example:
        >>> features = np.array([[0.0], [1.0], [2.0], [7.0], [8.0], [9.0]])
        >>> probe = fit_linear_probe(features, np.array([0, 0, 0, 1, 1, 1]), n_classes=3)
        >>> probe.probabilities(features).argmax(axis=1)
        array([0, 0, 0, 1, 1, 1])
    """
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or labels.shape != x.shape[:1] or not len(x):
        raise ValueError(
            f"features have shape {x.shape} and labels {labels.shape}: give (n, d) and (n,), n > 0."
        )
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}: give 0 to {n_classes - 1}."
        )
    if not len(strengths) or min(strengths) <= 0:
        raise ValueError(f"strengths are {list(strengths)}: give numbers above 0.")
    if folds < 2:
        raise ValueError(f"folds is {folds}: give at least 2.")
    # The weights lie in the span of the rows: on its axes the problem is the same, and small.
    centre, axes = principal_axes(x)
    coordinates = (x - centre) @ axes
    scale = np.sqrt(np.square(coordinates).sum() / len(x)) or 1.0
    coordinates /= scale
    best = _pick_strength(coordinates, labels, n_classes, seed, sorted(strengths), folds)
    inner = next(_fit_path(coordinates, labels, n_classes, [best], tolerance=1e-6))
    weight = inner.weight @ axes.T / scale
    return LinearProbe(weight, inner.bias - weight @ centre)


def deal_folds(labels: NDArray[np.integer], folds: int, seed: int | list[int]) -> NDArray[np.int64]:
    """Deal rows to folds, each class as evenly as it goes, and the folds of equal size.

    Args:
        labels: Class of each row, shape (n,).
        folds: Number of folds.
        seed: Of the order within classes.

    Returns:
        Fold of each row, shape (n,).

    Example:
        >>> deal_folds(np.array([0, 0, 0, 1, 1, 1]), folds=3, seed=0)
        array([1, 2, 0, 0, 2, 1])
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def _pick_strength(
    x: Array,
    labels: NDArray[np.integer],
    n_classes: int,
    seed: int,
    strengths: Sequence[float],
    folds: int,
) -> float:
    """Take the first of rising strengths after which the rows left out become less likely.

    Where none is better than another, it is the one in the middle.
    """
    fold = deal_folds(labels, folds, seed)
    # Of a class that has no other row, no strength is better or worse than another.
    helds = [(fold == out) & np.isin(labels, labels[fold != out]) for out in range(folds)]
    helds = [held for held in helds if held.any()]
    if len(strengths) == 1 or not helds:
        return strengths[len(strengths) // 2]
    seen = [fold != fold[held][0] for held in helds]
    paths = [_fit_path(x[rows], labels[rows], n_classes, strengths) for rows in seen]
    scores: list[float] = []
    for probes in zip(*paths, strict=True):
        told = [p.log_likelihood(x[h], labels[h]) for p, h in zip(probes, helds, strict=True)]
        scores.append(float(np.concatenate(told).sum()))
        # There is one maximum, and what lies far behind it takes longest to fit.
        if scores[-1] < max(scores):
            break
    return strengths[int(np.argmax(scores)) if np.ptp(scores) else len(strengths) // 2]


def _fit_path(
    x: Array,
    labels: NDArray[np.integer],
    n_classes: int,
    strengths: Sequence[float],
    tolerance: float = 1e-4,
) -> Iterator[LinearProbe]:
    """Fit one probe after the other for each strength, each started from the one before."""
    from scipy.optimize import minimize  # its import takes longer than a fit

    present = np.unique(labels)
    if len(present) == 1 or not x.shape[1]:
        # Nothing to tell apart, or nothing to tell it by: shares of the classes.
        counts = np.bincount(labels, minlength=n_classes)
        bias = np.log(np.maximum(counts, 1))
        bias[counts == 0] = bias[counts > 0].mean() - _UNSEEN
        yield from [LinearProbe(np.zeros((n_classes, x.shape[1])), bias)] * len(strengths)
        return
    one_hot = (labels[:, None] == present).astype(np.float64)

    def loss(values: Array, decay: float) -> tuple[float, Array]:
        """Mean cross-entropy and penalty, and their gradient; the biases are the last row."""
        table = values.reshape(-1, len(present))
        told = _log_softmax(x @ table[:-1] + table[-1])
        wrong = (np.exp(told) - one_hot) / len(x)
        slope = np.vstack([x.T @ wrong + decay * table[:-1], wrong.sum(axis=0)])
        penalty = 0.5 * decay * np.square(table[:-1]).sum()
        return penalty - (one_hot * told).sum() / len(x), slope.reshape(-1)

    values = np.zeros((x.shape[1] + 1) * len(present))
    for strength in strengths:
        decay = 1 / (strength * len(x))
        values = minimize(
            loss, values, (decay,), "L-BFGS-B", jac=True,
            options={"maxiter": 300, "gtol": tolerance, "ftol": 1e-12},
        ).x  # fmt: skip
        table = values.reshape(-1, len(present))
        # The best weights have the mean 0 already, but for what is left to converge.
        table = table - table.mean(axis=1, keepdims=True)
        weight, bias = np.zeros((n_classes, x.shape[1])), np.full(n_classes, -_UNSEEN)
        weight[present], bias[present] = table[:-1].T, table[-1]
        yield LinearProbe(weight, bias)


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normal: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normal
