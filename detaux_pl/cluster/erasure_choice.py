"""Groups of images that are better erased than kept: how they are found, tried and chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.cluster.agreement import agreement
from detaux_pl.cluster.base import Clusterer
from detaux_pl.cluster.erasing import Choice, Erasing, ErasureCandidate, Labels
from detaux_pl.cluster.resampled import resampled_p
from detaux_pl.cluster.tried import tell
from detaux_pl.models.erased_probe import erase_groups
from detaux_pl.models.erasure import Erasure, fit_erasure, mean_erasure
from detaux_pl.models.linear_probe import LinearProbe, deal_folds, fit_linear_probe
from detaux_pl.models.principal_axes import project

Array = NDArray[np.float64]

_CHOICE, _CONFIRMATION, _HALF = range(3)
"""What random numbers are drawn for: the folds of the choice, of the confirmation, the halves."""
_DOUBT = 0.02
"""Share of an even guess in the probabilities that are scored: of few images, one that is told
wrongly with certainty would outweigh all others."""
ADVICE = "Leave the features as they are: the plain classifier is the better choice here."


def choose_erasure(
    features: NDArray[np.floating],
    labels: NDArray[np.integer],
    n_classes: int,
    erasing: Erasing,
    principal: str = "the principal task",
    progress: Callable[[int], object] = lambda n: None,
) -> Choice:
    """Find groups of images, and choose which of them to erase from the features, if any.

    Args:
        features: Of all training images, labelled or not, shape (n, d).
        labels: Principal label of each, or `IGNORED`, shape (n,).
        n_classes: Number of classes of the principal task.
        erasing: The settings.
        principal: Name of the principal task.
        progress: Called with 1 after each fold.

    Returns:
        The choice. Its verdict has `found`, `headline` and `details`, which `sentence` joins,
        `chosen` (names), `alone` and `together` (mean log-likelihoods of images held out, on
        the folds of the confirmation), `accuracy_alone` and `accuracy_together`, `gain` (their
        difference in log-likelihood) and `p_value` (paired t-test over folds, one-sided, corrected
        for the images that folds share).

    Raises:
        UserError: If shapes do not fit, a feature is not finite, fewer than two classes have a
            label, or no two images have the same.

    References:
        Nadeau & Bengio 2003, "Inference for the Generalization Error": the corrected resampled
        t-test. It does not correct for the best of several candidates being taken.
    """
    labels = _checked(features, labels, n_classes)
    coordinates, _, _ = project(features, erasing.pca)
    probe = _fit(coordinates, labels, n_classes, erasing)
    groups = discover_groups(coordinates, labels, probe, erasing)
    members = erasing.members
    found = [
        _describe(name, [erasing.clusterers[k] for k in of], groups[:, list(of)], labels)
        for name, of in members
    ]
    deals = [[erasing.seed, _CHOICE, repeat] for repeat in range(erasing.repeats)]
    told, right, _ = _hold_out(
        coordinates, labels, n_classes, erasing, [of for _, of in members], deals, progress
    )
    gains = (told[..., 1:] - told[..., :1]).mean(axis=1)
    rows = len(gains)
    for k, candidate in enumerate(found):
        candidate.gain = float(gains[:, k].mean())
        candidate.error = float(gains[:, k].std(ddof=1) / np.sqrt(rows))
        candidate.accuracy = float(right[..., 1 + k].mean())
    best = _best(gains, [len(of) for _, of in members])
    chosen, of = found[best], list(members[best][1])
    chosen.stability = _stability(coordinates, labels, probe, groups[:, of], of, erasing)
    if chosen.gain <= erasing.margin * chosen.error:
        verdict = _refuse(chosen, erasing)
        for _ in range(erasing.confirmations * erasing.folds):
            progress(1)
    else:
        deals = [[erasing.seed, _CONFIRMATION, k] for k in range(erasing.confirmations)]
        verdict = _judge(
            chosen,
            erasing,
            principal,
            *_hold_out(coordinates, labels, n_classes, erasing, [tuple(of)], deals, progress),
        )
    for candidate in found:
        if candidate is not chosen:
            candidate.refused = f"{chosen.name} gains more, or as much more surely"
        elif not verdict["found"]:
            candidate.refused = verdict["headline"]
    proposed = groups[:, of]
    taken = proposed if verdict["found"] else proposed[:, :0]
    return Choice(taken, proposed, members[best][1], sorted(found, key=lambda c: -c.gain), verdict)


def discover_groups(
    coordinates: Array, labels: NDArray[np.integer], probe: LinearProbe, erasing: Erasing
) -> Labels:
    """Cluster what is left of the features without what the classifier tells of them.

    Args:
        coordinates: Of all training images, shape (n, d).
        labels: Label of each, or `IGNORED`, shape (n,).
        probe: What predicts the labels that are not given.
        erasing: The settings.

    Returns:
        Label of every row by each clusterer, or `IGNORED`, shape (n, number of clusterers).
    """
    points = _rest(coordinates, labels, probe, erasing)
    return np.stack([_cluster(clusterer, points) for clusterer in erasing.clusterers], axis=1)


def assign_groups(
    features: NDArray[np.floating],
    labels: NDArray[np.integer],
    n_classes: int,
    erasing: Erasing,
    of: Sequence[int],
    others: NDArray[np.floating],
) -> Labels:
    """Assign further images to the groups of the training images.

    Args:
        features: Of all training images, as given to `choose_erasure`, shape (n, d).
        labels: Likewise, shape (n,).
        n_classes: Likewise.
        erasing: Likewise.
        of: Which of the clusterers.
        others: Features of the further images, shape (m, d).

    Returns:
        Label of every one of them by each clusterer, or `IGNORED`, shape (m, len(of)).
    """
    labels = _checked(features, labels, n_classes)
    coordinates, mean, axes = project(features, erasing.pca)
    probe = _fit(coordinates, labels, n_classes, erasing)
    erasure = _erase_told(coordinates, labels, probe, erasing)
    erased = erasure(coordinates)
    points, centre, leading = project(erased, erasing.axes)
    further = (erasure((others - mean) @ axes) - centre) @ leading
    columns = []
    for k in of:
        known = _cluster(erasing.clusterers[k], points)
        found = (known >= 0).any()
        columns.append(
            erasing.clusterers[k].predict(further)[0] if found else np.full(len(others), IGNORED)
        )
    return np.stack(columns, axis=1)


def rows_to_hold_out(labels: NDArray[np.integer]) -> Labels:
    """Return the rows with a label that another row has too.

    Raises:
        UserError: If there is none.
    """
    given = np.flatnonzero(labels >= 0)
    rows: Labels = given[np.bincount(labels[given])[labels[given]] > 1]
    if not len(rows):
        raise UserError(
            "no class has two labelled training images, so that none can be held out to choose "
            "what to erase: label more of them, or leave cluster.erase out."
        )
    return rows


def _checked(features: NDArray[np.floating], labels: NDArray[np.integer], n_classes: int) -> Labels:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise UserError(
            f"features have shape {features.shape} and labels {labels.shape}: give (n, d) and (n,)."
        )
    if not np.isfinite(features).all():
        raise UserError("a feature is NaN or infinite: leave such images out.")
    counts = np.bincount(labels[labels >= 0], minlength=n_classes)
    if np.count_nonzero(counts) < 2:
        raise UserError(
            f"{np.count_nonzero(counts)} of {n_classes} classes have a labelled image: label some "
            "of at least 2."
        )
    if len(counts) > n_classes:
        raise UserError(f"a label is {len(counts) - 1}: give 0 to {n_classes - 1}.")
    return labels.astype(np.int64)


def _fit(features: Array, labels: Labels, n_classes: int, erasing: Erasing) -> LinearProbe:
    given = labels >= 0
    return fit_linear_probe(features[given], labels[given], n_classes, erasing.seed)


def _rest(
    coordinates: Array, labels: NDArray[np.integer], probe: LinearProbe, erasing: Erasing
) -> Array:
    """What is to be clustered: the leading axes of the features without predicted labels."""
    erased = _erase_told(coordinates, labels, probe, erasing)(coordinates)
    return project(erased, erasing.axes)[0]


def _erase_told(
    coordinates: Array, labels: NDArray[np.integer], probe: LinearProbe, erasing: Erasing
) -> Erasure:
    """The erasure of the labels, given or predicted."""
    predicted = np.where(labels >= 0, labels, probe.logits(coordinates).argmax(axis=1))
    return fit_erasure(coordinates, predicted, erasing.shrinkage)


def _cluster(clusterer: Clusterer, points: Array) -> Labels:
    """Cluster points; where that cannot be done all are in no cluster."""
    try:
        return clusterer.fit(points)[0]
    except UserError:
        return np.full(len(points), IGNORED, dtype=np.int64)


def _describe(
    name: str, clusterers: Sequence[Clusterer], groups: Labels, labels: Labels
) -> ErasureCandidate:
    return ErasureCandidate(
        name,
        [clusterer.settings for clusterer in clusterers],
        [len(np.unique(column[column >= 0])) for column in groups.T],
        ami_principal=max(agreement(labels, column) for column in groups.T),
    )


def _hold_out(
    coordinates: Array,
    labels: Labels,
    n_classes: int,
    erasing: Erasing,
    members: Sequence[tuple[int, ...]],
    deals: Sequence[list[int]],
    progress: Callable[[int], object],
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Ask of labelled images what is made of them without the labels of their fold.

    Returns:
        Log-likelihood of each image in each deal without an erasure and with each candidate's,
        shape (images, deals, 1 + candidates); whether it is told rightly, likewise; its fold,
        shape (images, deals). Images whose class has no other one are left out.
    """
    rows = rows_to_hold_out(labels)
    told = np.zeros((len(rows), len(deals), 1 + len(members)))
    right = np.zeros_like(told)
    folds = np.stack([deal_folds(labels[rows], erasing.folds, deal) for deal in deals], axis=1)
    wanted = sorted({k for of in members for k in of})
    for deal, out in np.ndindex(len(deals), erasing.folds):
        held = folds[:, deal] == out
        progress(1)
        if not held.any():
            continue
        seen = labels.copy()
        seen[rows[held]] = IGNORED
        probe = _fit(coordinates, seen, n_classes, erasing)
        points = _rest(coordinates, seen, probe, erasing)
        groups = {k: _cluster(erasing.clusterers[k], points) for k in wanted}
        parts = {
            k: erase_groups(coordinates, groups[k][:, None], erasing.shrinkage) for k in wanted
        }
        x, y = coordinates[rows[held]], labels[rows[held]]
        told[held, deal, 0] = _score(probe, x, y)
        right[held, deal, 0] = probe.logits(x).argmax(axis=1) == y
        for k, of in enumerate(members):
            erasure = mean_erasure([parts[j] for j in of])
            other = _fit(erasure(coordinates), seen, n_classes, erasing)
            told[held, deal, 1 + k] = _score(other, erasure(x), y)
            right[held, deal, 1 + k] = other.logits(erasure(x)).argmax(axis=1) == y
    return told, right, folds


def _score(probe: LinearProbe, x: Array, labels: Labels) -> Array:
    """Log-likelihood of each label [nats], bounded from below by some doubt."""
    told = np.exp(probe.log_likelihood(x, labels))
    scores: Array = np.log((1 - _DOUBT) * told + _DOUBT / len(probe.weight))
    return scores


def _best(gains: Array, sizes: Sequence[int]) -> int:
    """Take the highest gain, or one of several clusterers that is as good for all that is known.

    Args:
        gains: Of each image by each candidate, shape (images, candidates).
        sizes: Number of clusterers of each candidate.
    """
    order = np.argsort(-gains.mean(axis=0), kind="stable")
    best = int(order[0])
    for other in order:
        behind = gains[:, best] - gains[:, other]
        error = behind.std(ddof=1) / np.sqrt(len(behind))
        if sizes[other] > sizes[best] and behind.mean() <= error:
            return int(other)
    return best


def _stability(
    coordinates: Array,
    labels: Labels,
    probe: LinearProbe,
    groups: Labels,
    of: Sequence[int],
    erasing: Erasing,
) -> float:
    """Mean AMI of groupings with those of random halves of the images."""
    points = _rest(coordinates, labels, probe, erasing)
    scores = []
    for half in range(erasing.halves):
        rng = np.random.default_rng([erasing.seed, _HALF, half])
        rows = np.sort(rng.choice(len(points), max(len(points) // 2, 1), replace=False))
        for k, column in zip(of, groups.T, strict=True):
            other = _cluster(erasing.clusterers[k], points[rows])
            scores.append(agreement(column[rows], other))
    return float(np.mean(scores))


def _refuse(best: ErasureCandidate, erasing: Erasing) -> dict[str, Any]:
    """Say that no candidate gains enough to be confirmed."""
    errors = "standard error is" if erasing.margin == 1 else "standard errors are"
    numbers = (
        f"The best of them, {best.name}, adds {best.gain:+.2f} ± {best.error:.2f} to the "
        f"log-likelihood of labelled images held out, and {erasing.margin:g} {errors} asked for."
    )
    verdict = _tell(False, [numbers, ADVICE])
    return {**verdict, "chosen": [], "gain": best.gain, "error": best.error}


def _judge(
    chosen: ErasureCandidate,
    erasing: Erasing,
    principal: str,
    told: Array,
    right: Array,
    folds: NDArray[np.int64],
) -> dict[str, Any]:
    """Say what the best candidate gains on other folds, and how sure that is."""
    n_folds = erasing.folds
    gains = told[..., 1] - told[..., 0]
    means = np.array(
        [
            gains[folds[:, deal] == out, deal].mean()
            for deal, out in np.ndindex(folds.shape[1], n_folds)
            if (folds[:, deal] == out).any()
        ]
    )
    gain, p = float(gains.mean()), resampled_p(means, n_folds)
    alone, together = told[..., 0].mean(), told[..., 1].mean()
    accuracy = right.mean(axis=(0, 1))
    numbers = (
        f"On labelled images held out, the log-likelihood of {principal} is {together:.2f} with "
        f"{chosen.name} erased, {alone:.2f} without ({gain:+.2f}, p = {p:.2g}, {len(means)} folds "
        f"that the choice has not seen), its accuracy {accuracy[1]:.1%} and {accuracy[0]:.1%}."
    )
    # The folds are of the same images, so the confirmation alone is no better a witness.
    weights = [erasing.repeats, erasing.confirmations]
    both = float(np.average([chosen.gain, gain], weights=weights))
    details = [numbers]
    if both <= 0:
        details.append(ADVICE)
    elif gain <= 0:
        details.append(
            f"With the folds of the choice, which say {chosen.gain:+.2f}, it is {both:+.2f}: "
            "little speaks for erasing them."
        )
    return {
        **_tell(both > 0, details),
        "chosen": [chosen.name],
        "alone": float(alone),
        "together": float(together),
        "accuracy_alone": float(accuracy[0]),
        "accuracy_together": float(accuracy[1]),
        "gain": gain,
        "p_value": p,
    }


def _tell(found: bool, details: list[str]) -> dict[str, Any]:
    return tell(found, f"{'Groups' if found else 'No groups'} worth erasing were found", details)
