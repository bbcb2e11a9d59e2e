"""Gradient-boosted trees on columns that are sorted once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.metrics.inputs import Floats, Ints

_STAGES, _RATE, _DEPTH = 100, 0.1, 3
"""The defaults of scikit-learn's GradientBoostingClassifier."""
_LEAST_GAP = np.float32(1e-7)
"""Values that are not further apart are not split between, as in scikit-learn."""
_CHUNK = 1 << 16
"""Numbers to look at for a split at a time: half a MB, which stays in the cache."""

_Single = NDArray[np.float32]


class Columns(NamedTuple):
    """Codes to fit trees on, sorted once for all of them.

    Args:
        values: Codes of the samples, float32, shape (C, n).
        order: Samples by rising value of each code, shape (C, n).
    """

    values: _Single
    order: NDArray[np.intp]


class Boosted(NamedTuple):
    """What boosted trees found.

    Args:
        importances: Share of each code in the decrease of the squared error, shape (C,); all 0
            where no tree has a split.
        train: Class of the samples fitted on, shape (n,).
        test: Class of the other ones, shape (m,).
    """

    importances: Floats
    train: Ints
    test: Ints


@dataclass(frozen=True)
class _Split:
    code: int
    threshold: float
    gain: float
    left: int
    """Number of samples up to the threshold."""


@dataclass(frozen=True)
class _Leaf:
    rows: NDArray[np.intp]


_Tree = _Leaf | tuple[_Split, "_Tree", "_Tree"]


def sort_columns(codes: Floats) -> Columns:
    """Sort codes, shape (n, C), column by column."""
    values = np.ascontiguousarray(codes.T, dtype=np.float32)
    return Columns(values, np.argsort(values, axis=1, kind="stable"))


def fit_boosting(
    columns: Columns, labels: Ints, n_classes: int, test: Floats, seed: int = 0
) -> Boosted:
    """Fit and apply the trees of scikit-learn's `GradientBoostingClassifier` of default settings.

    100 stages of one tree for each class (one for two classes), depth 3, squared error, learning
    rate 0.1, all codes at every node, ties between codes broken at random. As all trees see the
    same samples, these are sorted once, and a node takes over the order of its parent; scikit-learn
    sorts them again in every node of every tree. The same trees up to rounding and ties.

    Args:
        columns: Codes of n samples, from `sort_columns`.
        labels: Their classes, from 0, shape (n,); every class occurs.
        n_classes: Number of classes, at least 2.
        test: Codes to classify, shape (m, C).
        seed: Seed of the ties.

    References:
        Friedman 2001, "Greedy Function Approximation", algorithms 5 and 6.
    """
    rng = np.random.default_rng(seed)
    n = len(labels)
    # Thresholds lie between neighbouring float32: they are compared as float64.
    shown = np.ascontiguousarray(test.T.astype(np.float32), dtype=np.float64)
    share = np.bincount(labels, minlength=n_classes) / n
    importances = np.zeros(len(columns.values))
    binary = n_classes == 2
    is_class = np.stack([labels == k for k in ([1] if binary else range(n_classes))]).astype(float)
    start = np.log(share[1:] / share[:1]) if binary else np.log(share)
    factor = 1.0 if binary else (n_classes - 1) / n_classes
    train_raw = np.repeat(start[:, None], n, axis=1)  # k, n
    test_raw = np.repeat(start[:, None], len(test), axis=1)
    for _ in range(_STAGES):
        # All trees of a stage follow the predictions before it.
        residuals = is_class - _probabilities(train_raw)
        for k, residual in enumerate(residuals):
            tree = _grow(columns, residual, importances, rng)
            curvature = np.abs(residual) * (1 - np.abs(residual))
            _update(tree, residual, curvature, factor * _RATE, train_raw[k], test_raw[k], shown)
    total = importances.sum()
    return Boosted(
        importances / total if total > 0 else importances,
        *(
            (raw[0] >= 0).astype(np.int64) if binary else raw.argmax(axis=0)
            for raw in (train_raw, test_raw)
        ),
    )


def _probabilities(raw: Floats) -> Floats:
    if len(raw) == 1:
        probability: Floats = np.exp(-np.logaddexp(0, -raw))
        return probability
    shifted: Floats = np.exp(raw - raw.max(axis=0))
    shifted /= shifted.sum(axis=0)
    return shifted


def _grow(
    columns: Columns, residual: Floats, importances: Floats, rng: np.random.Generator
) -> _Tree:
    """Grow one tree on all samples, and add the gains of its splits to the importances."""
    side = np.empty(len(residual), dtype=bool)

    def grow(order: NDArray[np.intp], depth: int) -> _Tree:
        split = None if depth == _DEPTH else _best_split(columns, order, residual, rng)
        if split is None:
            return _Leaf(order[0])
        importances[split.code] += split.gain
        ranked = order[split.code]
        if depth + 1 == _DEPTH:
            # Leaves only need their samples.
            return split, _Leaf(ranked[: split.left]), _Leaf(ranked[split.left :])
        side[ranked[: split.left]] = True
        side[ranked[split.left :]] = False
        left = side.take(order).ravel()
        # One part after the other, so that they need not be held at once. Several times as fast as
        # indexing by a mask.
        low = grow(order.compress(left).reshape(len(order), -1), depth + 1)
        np.logical_not(left, out=left)
        return split, low, grow(order.compress(left).reshape(len(order), -1), depth + 1)

    return grow(columns.order, 0)


def _best_split(
    columns: Columns, order: NDArray[np.intp], residual: Floats, rng: np.random.Generator
) -> _Split | None:
    """Find the split of a node that lowers the squared error most; None where there is none.

    Args:
        columns: All codes.
        order: Samples of the node by rising value of each code, shape (C, m).
        residual: What the tree is fitted to, shape (n,).
        rng: Breaks ties between codes.
    """
    n_codes, m = order.shape
    if m < 2:
        return None
    own = residual[order[0]]
    if own.var() <= np.finfo(float).eps:
        return None
    centred = residual - own.mean()
    left = np.arange(1, m)
    # The error falls by |sum of the left part|^2 m / (left right), for a mean of 0.
    weight = np.append(m / (left * (m - left)), 0.0)
    gains, places = np.empty(n_codes), np.empty(n_codes, dtype=np.intp)
    step = max(1, _CHUNK // m)
    for first in range(0, n_codes, step):
        part = slice(first, first + step)
        gain = centred.take(order[part])
        np.cumsum(gain, axis=1, out=gain)
        gain *= gain
        gain *= weight
        gain[:, -1] = -np.inf
        _find_places(columns.values[part], order[part], gain, places[part])
        gains[part] = gain[np.arange(len(gain)), places[part]]
    drawn = rng.permutation(n_codes)
    code = int(drawn[gains[drawn].argmax()])
    if gains[code] == -np.inf:
        return None
    place = int(places[code])
    low, high = columns.values[code, order[code, place : place + 2]].tolist()
    return _Split(code, low / 2 + high / 2, float(gains[code]), place + 1)


def _find_places(
    values: _Single, order: NDArray[np.intp], gain: Floats, places: NDArray[np.intp]
) -> None:
    """Find where each code gains most by a split after that place, between values that differ.

    Args:
        values: Values of the codes, shape (c, n).
        order: Samples of the node by rising value of each, shape (c, m).
        gain: Gain of a split after each place, shape (c, m); -inf on return where there is none,
            in codes whose first choice was such a place.
        places: Is filled with the places, shape (c,).
    """
    gain.argmax(axis=1, out=places)
    each = np.arange(len(places))
    low, high = values[each, order[each, places]], values[each, order[each, places + 1]]
    # The gains of most nodes need no look at the values but here.
    for i in np.flatnonzero(high <= low + _LEAST_GAP):
        ranked = values[i].take(order[i])
        gain[i, :-1][ranked[1:] <= ranked[:-1] + _LEAST_GAP] = -np.inf
        places[i] = gain[i].argmax()


def _update(
    tree: _Tree,
    residual: Floats,
    curvature: Floats,
    rate: float,
    train_raw: Floats,
    test_raw: Floats,
    shown: Floats,
) -> None:
    """Add the value of every leaf, one Newton step, to the predictions of its samples."""

    def walk(node: _Tree, rows: NDArray[np.intp]) -> None:
        if isinstance(node, _Leaf):
            bend = curvature[node.rows].mean()
            # Where all probabilities are 0 or 1 there is nothing to gain.
            value = rate * residual[node.rows].mean() / bend if bend >= 1e-150 else 0.0
            train_raw[node.rows] += value
            test_raw[rows] += value
            return
        split, low, high = node
        below = shown[split.code, rows] <= split.threshold
        walk(low, rows[below])
        walk(high, rows[~below])

    walk(tree, np.arange(shown.shape[1]))
