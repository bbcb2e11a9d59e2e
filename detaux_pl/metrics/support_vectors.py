"""Linear support vector machines on one number, solved exactly."""

from __future__ import annotations

import numpy as np

from detaux_pl.metrics.inputs import Floats, Ints

_MAX_STEPS = 100


def fit_line(x: Floats, labels: Ints, n_classes: int, c: float = 0.01) -> tuple[Floats, Floats]:
    """Fit one machine for each class against the rest, on a single number.

    Minimises `(w^2 + b^2) / 2 + sum_i c_i max(0, 1 - y_i (w x_i + b))^2` by Newton's method, which
    ends on a piecewise quadratic function. On sorted numbers the samples within the margin are
    those up to a place or from one on, so that cumulative sums give gradient and Hessian: a step
    costs a search, whatever the number of samples. The optimum is that of scikit-learn's
    `LinearSVC(class_weight="balanced")`, where the samples of the class have the weight
    `c n / (K n_k)` and the rest, as in liblinear, `c`; of two classes both are weighted.

    Args:
        x: Numbers, shape (n,).
        labels: Their classes, from 0, shape (n,); every class occurs.
        n_classes: Number of classes K, at least 2.
        c: Strength of the hinge. disentanglement_lib: 0.01.

    Returns:
        Weights w and intercepts b, both of shape (K,): the class of x is the argmax of `w x + b`.
    """
    order = np.argsort(x, kind="stable")
    x, labels = x[order], labels[order]
    n = len(x)
    counts = np.bincount(labels, minlength=n_classes)
    balanced = c * n / (n_classes * counts)
    powers = np.stack([np.ones(n), x, x * x])
    # k = classes, p = powers, n = samples
    own = np.zeros((n_classes, 3, n + 1))
    inside = labels == np.arange(n_classes)[:, None]
    np.cumsum(inside[:, None] * powers, axis=2, out=own[:, :, 1:])
    rest = own.sum(axis=0) - own
    rest_weight = balanced[::-1] if n_classes == 2 else np.full(n_classes, c)

    def sums(point: Floats) -> tuple[Floats, Floats]:
        """Weighted sums of the powers over the samples within the margin, both (K, 3)."""
        w, b = point
        flat = w == 0
        slope = np.where(flat, 1.0, w)
        # The places where a machine says 1 (for its own class) and -1 (for the rest).
        at = np.stack([(1 - b) / slope, (-1 - b) / slope])
        left = np.searchsorted(x, at, side="left")
        right = np.searchsorted(x, at, side="right")
        rows = np.arange(n_classes)
        below = w > 0
        own_sum = np.where(
            below[:, None], own[rows, :, left[0]], own[rows, :, n] - own[rows, :, right[0]]
        )
        rest_sum = np.where(
            below[:, None], rest[rows, :, n] - rest[rows, :, right[1]], rest[rows, :, left[1]]
        )
        own_sum[flat] = np.where((b < 1)[flat, None], own[flat, :, n], 0.0)
        rest_sum[flat] = np.where((b > -1)[flat, None], rest[flat, :, n], 0.0)
        return balanced[:, None] * own_sum, rest_weight[:, None] * rest_sum

    def value(point: Floats, parts: tuple[Floats, Floats]) -> Floats:
        w, b = point
        both = parts[0] + parts[1]
        apart = parts[0] - parts[1]
        squares = w * w * both[:, 2] + 2 * w * b * both[:, 1] + b * b * both[:, 0]
        total: Floats = (w * w + b * b) / 2 + both[:, 0] + squares
        total -= 2 * (w * apart[:, 1] + b * apart[:, 0])
        return total

    point = np.zeros((2, n_classes))
    parts = sums(point)
    loss = value(point, parts)
    for _ in range(_MAX_STEPS):
        both, apart = 2 * (parts[0] + parts[1]), 2 * (parts[0] - parts[1])
        hww, hwb, hbb = 1 + both[:, 2], both[:, 1], 1 + both[:, 0]
        gradient = np.stack(
            [
                hww * point[0] + hwb * point[1] - apart[:, 1],
                hwb * point[0] + hbb * point[1] - apart[:, 0],
            ]
        )
        determinant = hww * hbb - hwb * hwb
        step = np.stack(
            [hbb * gradient[0] - hwb * gradient[1], hww * gradient[1] - hwb * gradient[0]]
        )
        step /= determinant
        decrease = (gradient * step).sum(0)
        if (decrease <= 1e-14 * (1 + loss)).all():
            break
        size = np.ones(n_classes)
        for _ in range(30):  # halved until it descends
            moved = point - size * step
            parts = sums(moved)
            after = value(moved, parts)
            high = after > loss - 1e-4 * size * decrease + 1e-14 * (1 + loss)
            if not high.any():
                break
            size[high] /= 2
        point, loss = moved, after
    return point[0], point[1]
