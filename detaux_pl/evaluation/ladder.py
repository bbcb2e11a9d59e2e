"""Which rung of a ladder to take, and what the discovered task is worth in labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from detaux_pl.evaluation.compare import Comparison


@dataclass(frozen=True)
class Rated:
    """A rung at one number of labels.

    Args:
        name: Its name.
        mean: Mean test accuracy over the seeds, in [0, 1].
        error: Standard error of the mean, see `standard_error`.
        seconds: What it took, with all that it is made from [s].
    """

    name: str
    mean: float
    error: float
    seconds: float


@dataclass(frozen=True)
class Worth:
    """What a discovered task is worth in labels.

    Args:
        rung: The rung with the task.
        alone: The same without.
        labels: Labels of each class that both have.
        gain: Difference of their mean accuracies, in [-1, 1].
        more: Further labels of each class with which `alone` does as well: 0 for none, infinity
            where the most labels that were tried do not suffice.
        most: The most that were tried.
    """

    rung: str
    alone: str
    labels: float
    gain: float
    more: float
    most: float


@dataclass(frozen=True)
class Budget:
    """A ladder at one number of labels.

    Args:
        labels: Labels of each class that were asked for; None for all.
        known: How many these are on average.
        n_test: Number of test images.
        comparison: The rungs, with paired tests over the seeds.
        rated: The same rungs, in the order of the comparison.
        chosen: The rung to take, see `recommend`.
    """

    labels: int | None
    known: float
    n_test: int
    comparison: Comparison
    rated: Sequence[Rated]
    chosen: Rated

    @property
    def best(self) -> Rated:
        """The rung of the highest mean."""
        return self.rated[0]


def standard_error(scores: Sequence[float], n_test: int) -> float:
    """Return the standard error of a mean accuracy over seeds on one test set.

    `sqrt(s^2 / n + p (1 - p) / m)` with s the standard deviation over n seeds, p the mean and m the
    number of test images: other seeds, and other test images, would give another.

    Example:
        >>> round(standard_error([0.5, 0.5], 100), 3), round(standard_error([0.4, 0.6], 10**9), 3)
        (0.05, 0.1)
    """
    mean = float(np.mean(scores))
    spread = float(np.var(scores, ddof=1)) / len(scores) if len(scores) > 1 else 0.0
    return math.sqrt(spread + mean * (1 - mean) / n_test)


def recommend(rungs: Sequence[Rated]) -> Rated:
    """Return the cheapest rung whose mean is within one standard error of the best one's.

    References:
        Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3: the rule of one
        standard error.

    Example:
        >>> rungs = [Rated("a", 0.5, 0.1, 1), Rated("b", 0.8, 0.1, 5), Rated("c", 0.85, 0.1, 9)]
        >>> recommend(rungs).name
        'b'
    """
    best = max(rungs, key=lambda rung: rung.mean)
    return min(
        (rung for rung in rungs if rung.mean >= best.mean - best.error),
        key=lambda rung: (rung.seconds, -rung.mean),
    )


def labels_worth(curve: Mapping[float, float], labels: float, reached: float) -> float:
    """Return how many more labels it takes to come as far.

    Between the numbers that were tried accuracy is linear in their logarithm.

    Args:
        curve: Mean accuracy by number of labels, of what has no discovered task.
        labels: The number of labels to start from, in the curve.
        reached: The accuracy to reach.

    Returns:
        0 where it is there already, infinity where it never comes so far.

    Example:
        >>> curve = {5: 0.5, 20: 0.7}
        >>> [labels_worth(curve, 5, accuracy) for accuracy in (0.4, 0.6, 0.7, 0.8)]
        [0.0, 5.0, 15.0, inf]
    """
    places = sorted(place for place in curve if place >= labels)
    if reached <= curve[labels]:
        return 0.0
    for before, after in pairwise(places):
        if curve[after] >= reached:
            share = (reached - curve[before]) / (curve[after] - curve[before])
            return round(float(before * (after / before) ** share - labels), 9)
    return math.inf


def worths(budgets: Sequence[Budget], pairs: Mapping[str, str]) -> list[Worth]:
    """Return what discovered tasks are worth in labels, at each number of labels but the most.

    Args:
        budgets: The ladder, from the fewest labels to the most.
        pairs: By the name of a rung, that of the same without the discovered task.
    """
    curves: dict[str, dict[float, float]] = {}
    for budget in budgets:
        for rated in budget.rated:
            curves.setdefault(rated.name, {})[budget.known] = rated.mean
    found = []
    for rung, alone in pairs.items():
        curve = curves.get(alone, {})
        for labels, mean in curves.get(rung, {}).items():
            if labels in curve and labels < max(curve):
                more = labels_worth(curve, labels, mean)
                found.append(Worth(rung, alone, labels, mean - curve[labels], more, max(curve)))
    return found
