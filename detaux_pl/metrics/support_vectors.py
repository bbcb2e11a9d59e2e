"""Linear support vector machines on one number, solved exactly."""

from __future__ import annotations

import numpy as np

from detaux_pl.metrics.inputs import Floats, Ints

_MAX_STEPS = 100


def fit_line(x: Floats, labels: Ints, n_classes: int, c: float = 0.01) -> tuple[Floats, Floats]:
    """Fit one machine for each class against the rest, on a single number.

    Minimises `(w^2 + b^2) / 2 + sum_i c_i max(0, 1 - y_i (w x_i + b))^2` by Newton's method, which
    ends on a piecewise quadratic function. Of sorted numbers those within the margin are the ones
    before a place, or from a place on, so that cumulative sums give loss, gradient and Hessian: a
    step costs a search, whatever the number of samples. The optimum is that of scikit-learn's
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
    margins = _Margins(x, labels, n_classes, c)
    point = np.zeros((2, n_classes))
    sums = margins.sums(point)
    loss = _loss(point, *sums)
    for _ in range(_MAX_STEPS):
        step, decrease = _newton(point, *sums)
        accuracy = 1e-14 * (1 + loss)
        if (decrease <= accuracy).all():
            break
        size = np.ones(n_classes)
        for _ in range(30):  # halved until every machine descends
            moved = point - size * step
            sums = margins.sums(moved)
            moved_loss = _loss(moved, *sums)
            high = moved_loss > loss - 1e-4 * size * decrease + accuracy
            if not high.any():
                break
            size[high] /= 2
        point, loss = moved, moved_loss
    return point[0], point[1]


class _Margins:
    """Finds the samples that lie within the margin of each machine."""

    def __init__(self, x: Floats, labels: Ints, n_classes: int, c: float) -> None:
        order = np.argsort(x)
        self._x, labels = x[order], labels[order]
        n = len(x)
        self._own_weight = c * n / (n_classes * np.bincount(labels, minlength=n_classes))
        self._rest_weight = self._own_weight[::-1] if n_classes == 2 else np.full(n_classes, c)
        powers = np.stack([np.ones(n), self._x, self._x**2])
        by_class = np.argsort(labels, kind="stable")
        # A search among these counts the samples of a class before a place among all.
        self._keys = labels[by_class] * (n + 1) + by_class
        self._first_keys = np.arange(n_classes) * (n + 1)
        self._starts = np.searchsorted(self._keys, self._first_keys)
        self._all, self._by_class = np.zeros((3, n + 1)), np.zeros((3, n + 1))
        np.cumsum(powers, axis=1, out=self._all[:, 1:])
        np.cumsum(powers[:, by_class], axis=1, out=self._by_class[:, 1:])
        self._own_total = self._own_before(np.full(n_classes, n))
        self._rest_total = self._all[:, -1:] - self._own_total

    def sums(self, point: Floats) -> tuple[Floats, Floats]:
        """Return weighted sums of 1, x, x^2 within the margin: of a class, of the rest, (3, K)."""
        w, b = point
        rising = w >= 0
        # Where a machine says 1 and -1; without a slope, everywhere or nowhere.
        at = np.stack([np.where(b < 1, np.inf, -np.inf), np.where(b > -1, -np.inf, np.inf)])
        with np.errstate(over="ignore"):
            np.divide([1 - b, -1 - b], w, where=w != 0, out=at)
        places = np.searchsorted(self._x, at)
        own = self._own_before(places[0])
        own = np.where(rising, own, self._own_total - own)
        rest = self._all[:, places[1]] - self._own_before(places[1])
        rest = np.where(rising, self._rest_total - rest, rest)
        return self._own_weight * own, self._rest_weight * rest

    def _own_before(self, places: Ints) -> Floats:
        ends = np.searchsorted(self._keys, self._first_keys + places)
        before: Floats = self._by_class[:, ends] - self._by_class[:, self._starts]
        return before


def _loss(point: Floats, own: Floats, rest: Floats) -> Floats:
    w, b = point
    both, apart = own + rest, own - rest
    loss: Floats = (w * w + b * b) / 2 + both[0] - 2 * (w * apart[1] + b * apart[0])
    loss += w * w * both[2] + 2 * w * b * both[1] + b * b * both[0]
    return loss


def _newton(point: Floats, own: Floats, rest: Floats) -> tuple[Floats, Floats]:
    """Return Newton's step and its product with the gradient."""
    w, b = point
    both, apart = 2 * (own + rest), 2 * (own - rest)
    ww, wb, bb = 1 + both[2], both[1], 1 + both[0]
    by_w = ww * w + wb * b - apart[1]
    by_b = wb * w + bb * b - apart[0]
    # The determinant is at least this by Cauchy and Schwarz, and rounded less for large codes.
    determinant = np.maximum(ww * bb - wb * wb, ww + bb - 1)
    step = np.stack([bb * by_w - wb * by_b, ww * by_b - wb * by_w]) / determinant
    return step, step[0] * by_w + step[1] * by_b
