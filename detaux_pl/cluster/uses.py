"""What a grouping is good for: to be learned as a task, to be balanced, or to be left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.cluster.candidates import SURE, Candidate, Selection, rule_out
from detaux_pl.cluster.resampled import resampled_p
from detaux_pl.cluster.tried import UseVerdict, Worth
from detaux_pl.metrics.holm import holm
from detaux_pl.metrics.worst_cell import worst_accuracy

LEAVE = "leave"
"""The use that the others are held against."""
_WORDS = {LEAVE: "left alone", "learn": "learned", "balance": "balanced"}


def pick_for_uses(
    candidates: Sequence[Candidate],
    chosen: Sequence[Candidate],
    alarms: Sequence[AuxiliaryLabels],
    selection: Selection,
) -> list[Candidate]:
    """Take the best task, and the groups of the first alarm or else the most stable subclasses.

    Args:
        candidates: All candidates, with their relation to the label.
        chosen: Those that were chosen as tasks, the best one first.
        alarms: Groups of the alarms, the strongest first.
        selection: What rules candidates out.
    """
    any_relation = copy(selection)
    any_relation.max_ami = 1.0
    best = chosen[:1]
    related = [
        candidate
        for candidate in candidates
        if candidate.relation in ("shortcut", "subclass")
        and all(candidate is not other for other in best)
        and rule_out(candidate, any_relation) is None
    ]
    alarming = [c for groups in alarms for c in related if c.task is groups]
    return [*best, *[*alarming, *sorted(related, key=lambda c: -c.stability)][:1]]


def judge_uses(
    name: str,
    right: Mapping[str, NDArray[np.bool_]],
    folds: NDArray[np.int64],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
) -> UseVerdict:
    """Say which use of a grouping is worth most, and how sure that is.

    A use is worth the accuracy on images held out in which every class in every group weighs alike:
    of groups that are unrelated to the label that is the accuracy, of others the accuracy where
    label and group come apart. The best use is chosen if its gain over leaving the groups alone is
    positive, with p < 0.1 after Holm's correction for the number of uses; else they are left alone.

    Args:
        name: Name of the candidate.
        right: By use, `leave` among them, whether a net that never saw an image tells its label,
            in each of R cross-fits, shape (R, n).
        folds: Fold of each image in each cross-fit, shape (R, n).
        labels: Label of each image, shape (n,).
        groups: Group of each image, or `IGNORED` for those that do not count, shape (n,).

    Returns:
        `name`, `use`, its `p_value` (None if they are left alone), a `sentence`, and in `uses` of
        each one `accuracy` (as the images are), `balanced`, `worst` (see `worst_accuracy`), `gain`
        (of `balanced`) and `p_value` (paired t-test over folds, one-sided, corrected for the
        training images that folds share and for the number of uses).

    Example:
        >>> labels, groups = np.repeat([0, 1], 200), np.arange(400) % 2
        >>> folds = np.stack([np.arange(400) // 2 % 4] * 3)
        >>> rng = np.random.default_rng(0)
        >>> right = {"leave": rng.random((3, 400)) < 0.7, "learn": rng.random((3, 400)) < 0.9}
        >>> judge_uses("KMeans 2", right, folds, labels, groups)["use"]
        'learn'
    """
    inside = groups != IGNORED
    _, cells = np.unique(labels[inside] * (groups.max() + 1) + groups[inside], return_inverse=True)
    folds = folds[:, inside]
    n_folds = int(folds.max()) + 1
    told = {use: each[:, inside] for use, each in right.items()}
    scores = {use: _balanced(each, folds, cells, n_folds) for use, each in told.items()}
    gains = {use: scores[use] - scores[LEAVE] for use in told if use != LEAVE}
    values = {use: resampled_p(each, n_folds) for use, each in gains.items()}
    uses: dict[str, Worth] = {}
    corrected = dict(zip(values, holm(list(values.values())), strict=True))
    total = np.bincount(cells)
    for use, each in told.items():
        hits = np.mean([np.bincount(cells, row, len(total)) for row in each], axis=0)
        uses[use] = {
            "accuracy": float(each.mean()),
            "balanced": float(scores[use].mean()),
            "worst": float(worst_accuracy(hits, total)),
            "gain": float(gains[use].mean()) if use in gains else 0.0,
            "p_value": corrected.get(use),
        }
    best = max(gains, key=lambda use: uses[use]["gain"])
    sure = corrected[best] < SURE and uses[best]["gain"] > 0
    use = best if sure else LEAVE
    listed = ", ".join(
        f"{_WORDS[each]} {worth['balanced']:.1%} ({worth['worst']:.0%} in the worst)"
        for each, worth in uses.items()
    )
    sentence = (
        f"{name} is best {_WORDS[use]}: with every class in every group alike, accuracy on images "
        f"held out is {listed}; {_WORDS[best]} is {100 * uses[best]['gain']:+.1f} points "
        f"(p = {corrected[best]:.2g})."
    )
    return {
        "name": name,
        "use": use,
        "p_value": corrected[use] if sure else None,
        "sentence": sentence,
        "uses": uses,
    }


def _balanced(
    right: NDArray[np.bool_], folds: NDArray[np.int64], cells: NDArray[np.int64], n_folds: int
) -> NDArray[np.float64]:
    """Mean over cells of their accuracy, of each fold of each cross-fit, shape (R * folds,)."""
    scores = []
    for hits, fold in zip(right, folds, strict=True):
        for k in range(n_folds):
            own = fold == k
            total = np.bincount(cells[own])
            there = total > 0
            scores.append((np.bincount(cells[own], hits[own])[there] / total[there]).mean())
    return np.array(scores)
