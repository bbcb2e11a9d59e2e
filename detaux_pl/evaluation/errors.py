"""Where networks err: class by class, class against class, image by image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.evaluation.significance import bootstrap_mean, wilson
from detaux_pl.evaluation.together import Together

Rows = list[dict[str, Any]]
"""A table: the same columns in every row, None where a number is not defined."""

IMAGE_COLUMNS = ("id", "true", "predicted", "probability", "label_probability", "agreeing_seeds")
"""Columns of the tables of images."""
_LISTED = 1000
"""Confusions and images that the report lists, at most."""


def score(own: Together, other: Together | None = None) -> dict[str, Any]:
    """Score networks that answer together.

    Args:
        own: What they say.
        other: What those of the baseline say.

    Returns:
        `accuracy` with `ci95` by bootstrap over the test images, macro `f1`, `ece`,
        `ece_calibrated`, `temperature`, `seeds` and the number of `images`; `difference` in
        accuracy with `difference_ci95`, image by image, where the baseline has the same seeds and
        images.
    """
    numbers = {
        "accuracy": own.accuracy,
        "ci95": list(bootstrap_mean(own.right)),
        "f1": _macro_f1(own),
        "ece": own.before.ece,
        "ece_calibrated": own.after.ece,
        "temperature": own.temperature,
        "seeds": list(own.seeds),
        "images": len(own.ids),
        "difference": None,
        "difference_ci95": None,
    }
    if other is not None and other.seeds == own.seeds and np.array_equal(other.ids, own.ids):
        gaps = own.right.astype(np.int64) - other.right
        numbers["difference"] = float(gaps.mean())
        numbers["difference_ci95"] = list(bootstrap_mean(gaps))
    return numbers


def per_class(own: Together, other: Together | None = None) -> Rows:
    """Score every class, in their order.

    Args:
        own: What the networks say.
        other: What those of the baseline say.

    Returns:
        `class`, number of `images` by label and `predicted` ones; `recall` and `precision`, each
        with its Wilson interval as `recall_low`, `recall_high`; `f1`; the class that it is
        `taken_for` most often, and how often. The same of the baseline as `baseline_recall` and
        so on. None where no image is of the class or predicted to be.
    """
    wrong = ~own.right
    # Pairs with the most frequent last, which is then the one that stays.
    pairs, n = _pairs(own.targets[wrong], own.predicted[wrong])
    taken = {
        int(true): (own.classes[said], int(times))
        for (true, said), times in sorted(
            zip(pairs, n, strict=True), key=lambda each: (each[1], -each[0][1])
        )
    }
    rows = []
    for k, numbers in enumerate(_class_scores(own)):
        taken_for, times = taken.get(k, (None, 0))
        rows.append(
            {"class": own.classes[k], **numbers, "taken_for": taken_for, "taken_for_images": times}
        )
    if other is not None:
        for row, numbers in zip(rows, _class_scores(other), strict=True):
            row |= {f"baseline_{name}": value for name, value in numbers.items()}
    return rows


def worst_first(rows: Rows) -> Rows:
    """Order what `per_class` gives: lowest recall first, classes without an image last."""
    return sorted(
        rows, key=lambda row: (row["recall"] is None, row["recall"] or 0.0, -row["images"])
    )


def confusion(own: Together) -> Rows:
    """List every pair of a true and a predicted class that an image has.

    Returns:
        `true`, `predicted`, number `n` of images and their `share` of those of the true class, in
        the order of the classes.
    """
    return _pair_rows(own, np.ones(len(own.ids), bool))


def confusions(own: Together) -> Rows:
    """List the pairs of different classes as `confusion` does, the most frequent first."""
    return sorted(_pair_rows(own, ~own.right), key=lambda row: (-row["n"], -row["share"]))


def mistakes(own: Together) -> Rows:
    """List the images that are told wrong, those that the networks are surest of first.

    Returns:
        The `id`, `true` and `predicted` name, calibrated `probability` of the predicted class and
        of the label, and number of seeds whose network names the predicted class by itself.
    """
    return _images(own, np.flatnonzero(~own.right))


def suspects(own: Together) -> Rows | None:
    """List the images whose label no network confirms, and that may be wrong, as `mistakes` does.

    Returns:
        Those that every seed, and all seeds together, tell otherwise; None for one seed, whose
        mistakes are no evidence against a label.
    """
    if len(own.seeds) == 1:
        return None
    return _images(own, np.flatnonzero((own.votes != own.targets).all(axis=0) & ~own.right))


def reliability_rows(own: Together) -> Rows:
    """List how sure the networks are and how often they are right, bin by bin.

    Returns:
        Whether probabilities are `calibrated`, their mean (`confidence`), the `accuracy` with its
        Wilson interval and the number of `images`.
    """
    rows = []
    for calibrated, told in ((False, own.before), (True, own.after)):
        for confidence, accuracy, n in told.bins:
            low, high = wilson(round(accuracy * n), n) or (None, None)
            rows.append(
                {
                    "calibrated": calibrated, "confidence": confidence, "accuracy": accuracy,
                    "low": low, "high": high, "images": n,
                }
            )  # fmt: skip
    return rows


def confusion_counts(own: Together, classes: NDArray[np.intp]) -> NDArray[np.int64]:
    """Count the images of some classes by true and predicted class.

    Args:
        own: What the networks say.
        classes: Indices of K classes, in the order wanted, shape (K,).

    Returns:
        Shape (K, K): a row a true class.
    """
    place = np.full(len(own.classes), -1)
    place[classes] = np.arange(len(classes))
    true, said = place[own.targets], place[own.predicted]
    within = (true >= 0) & (said >= 0)
    flat = true[within] * len(classes) + said[within]
    counts = np.bincount(flat, minlength=len(classes) ** 2)
    return counts.reshape(len(classes), len(classes)).astype(np.int64)


def describe_errors(own: Together, other: Together | None) -> dict[str, Any]:
    """Put together what a report says: long lists are cut, and their lengths told.

    Args:
        own: What the networks say.
        other: What those of the baseline say.
    """
    pairs, wrong, doubtful = confusions(own), mistakes(own), suspects(own)
    return {
        "seeds": list(own.seeds),
        "baseline_seeds": None if other is None else list(other.seeds),
        "images": len(own.ids),
        "n_mistakes": len(wrong),
        "n_suspects": None if doubtful is None else len(doubtful),
        "n_confusions": len(pairs),
        "per_class": per_class(own, other),
        "confusion": pairs[:_LISTED],
        "reliability": reliability_rows(own),
        "mistakes": wrong[:_LISTED],
        "suspects": None if doubtful is None else doubtful[:_LISTED],
    }


def _class_scores(own: Together) -> Iterator[dict[str, Any]]:
    n_classes = len(own.classes)
    of_class = np.bincount(own.targets, minlength=n_classes).tolist()
    said = np.bincount(own.predicted, minlength=n_classes).tolist()
    hits = np.bincount(own.targets[own.right], minlength=n_classes).tolist()
    for n, predicted, hit in zip(of_class, said, hits, strict=True):
        yield {
            "images": n,
            "predicted": predicted,
            **_share("recall", hit, n),
            **_share("precision", hit, predicted),
            "f1": 2 * hit / (n + predicted) if n + predicted else None,
        }


def _share(name: str, hits: int, n: int) -> dict[str, float | None]:
    low, high = wilson(hits, n) or (None, None)
    return {name: hits / n if n else None, f"{name}_low": low, f"{name}_high": high}


def _macro_f1(own: Together) -> float:
    """Mean over the classes that an image has or is said to have."""
    return float(np.mean([row["f1"] for row in _class_scores(own) if row["f1"] is not None]))


def _pairs(
    true: NDArray[np.int64], said: NDArray[np.int64]
) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """Count pairs of classes: of many classes, few of all pairs occur."""
    pairs, n = np.unique(np.stack([true, said], axis=1), axis=0, return_counts=True)
    return [(first, second) for first, second in pairs.tolist()], n


def _pair_rows(own: Together, which: NDArray[np.bool_]) -> Rows:
    of_class = np.bincount(own.targets, minlength=len(own.classes))
    pairs, n = _pairs(own.targets[which], own.predicted[which])
    return [
        {
            "true": own.classes[true], "predicted": own.classes[said], "n": int(times),
            "share": float(times / of_class[true]),
        }
        for (true, said), times in zip(pairs, n, strict=True)
    ]  # fmt: skip


def _images(own: Together, rows: NDArray[np.int64]) -> Rows:
    rows = rows[np.argsort(-own.probability[rows], kind="stable")]
    agreeing = (own.votes == own.predicted).sum(axis=0)
    return [
        dict(
            zip(
                IMAGE_COLUMNS,
                (
                    own.ids[row].item(),
                    own.classes[own.targets[row]],
                    own.classes[own.predicted[row]],
                    float(own.probability[row]),
                    float(own.of_label[row]),
                    int(agreeing[row]),
                ),
                strict=True,
            )
        )
        for row in rows.tolist()
    ]
