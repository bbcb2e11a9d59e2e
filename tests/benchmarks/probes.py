"""Speed of the linear probe, against scikit-learn's logistic regression."""

from __future__ import annotations

import statistics

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from detaux_pl.evaluation.probes import linear_probe
from tests.benchmarks.disentangle import ratio, turns

_TRAIN = 20_000
_TEST = 2_000
_CLASSES = 10
_DISTANCE = 2.7
"""Of the class means from the origin, in deviations of a class: a tenth or two cannot be told."""
_ROUNDS = 3


def measure() -> list[tuple[str, float, str]]:
    """Return name, value and unit of each figure; what is compared takes turns."""
    return [row for dims in (16, 256, 512) for row in _compare(dims)]


def _compare(dims: int) -> list[tuple[str, float, str]]:
    rng = np.random.default_rng(0)
    means = rng.standard_normal((_CLASSES, dims))
    means *= _DISTANCE / np.linalg.norm(means, axis=1, keepdims=True)
    y = rng.integers(_CLASSES, size=_TRAIN + _TEST)
    x = (means[y] + rng.standard_normal((len(y), dims))).astype(np.float32)
    train, test = (x[:_TRAIN], y[:_TRAIN]), (x[_TRAIN:], y[_TRAIN:])
    accuracies: dict[str, float] = {}

    def ours() -> None:
        accuracies["ours"] = linear_probe(*train, *test)

    def theirs() -> None:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        accuracies["theirs"] = model.fit(*train).score(*test)

    seconds = turns(ours, theirs, rounds=_ROUNDS, repeat=1)
    points = {name: 100 * accuracy for name, accuracy in accuracies.items()}
    return [
        (f"linear probe, {_TRAIN:,} samples, D = {dims}", statistics.median(seconds[0]), "s"),
        ("scikit-learn LogisticRegression", statistics.median(seconds[1]), "s"),
        ("ratio", ratio(seconds[1], seconds[0]), "x faster"),
        ("accuracy, scikit-learn", points["theirs"], "%"),
        ("difference", points["ours"] - points["theirs"], "points (aim: within 0.5)"),
    ]
