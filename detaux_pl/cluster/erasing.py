"""Groups of images that are better erased than kept: how they are found, tried and chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.cluster.base import Clusterer
from detaux_pl.cluster.candidates import agreement, name_clusterers
from detaux_pl.models.erased_probe import erase_groups
from detaux_pl.models.erasure import fit_erasure, mean_erasure
from detaux_pl.models.linear_probe import LinearProbe, deal_folds, fit_linear_probe
from detaux_pl.models.principal_axes import project

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

_CHOICE, _CONFIRMATION, _HALF = range(3)
"""What random numbers are drawn for: the folds of the choice, of the confirmation, the halves."""
_DOUBT = 0.02
"""Share of an even guess in the probabilities that are scored: of few images, one that is told
wrongly with certainty would outweigh all others."""
ADVICE = "Leave the features as they are: the plain classifier is the better choice here."


class Erasing:
    """How it is chosen which groups of images are erased from their features, if any.

    What the classifier predicts of all training images is erased from their features, the rest is
    clustered, and the clusters are erased from the features in their turn: what remains tells the
    classes more clearly where the clusters have nothing to do with them, and less clearly where
    they have. Which it is, labelled images held out say: everything that sees a label (classifier,
    predictions, erasures, clusters) is made anew without a fold, and told by the log-likelihood
    of the fold. No label of validation and test images is read.

    Candidates are the clusters of each clusterer, and those of `together` neighbours in the list at
    once, whose erasures are averaged: what all of them find is erased in full, what one finds in
    part. The best one is that of the highest gain; one of several clusterers is preferred where
    the two cannot be told apart by one standard error. It is erased if its gain is more than
    `margin` standard errors above nothing on the folds of the choice, and still above nothing
    together with what folds say that the choice has not seen. A gain is one of log-likelihood, of
    probabilities with 2 % of an even guess.

    Args:
        clusterers: What groups the images; those next to each other in the list are alike.
        together: Number of neighbours that are erased at once; 1 for none.
        pca: Principal components of the features to work in, at most.
        axes: Principal components to cluster, at most, of what is left of them.
        shrinkage: Of the covariance in the erasures, see `fit_erasure`.
        folds: Number of folds of the labelled images.
        repeats: Number of times that they are dealt anew for the choice.
        confirmations: Number of times that they are dealt anew for the best candidate alone.
        margin: Standard errors that its gain must be above 0.
        halves: Number of random halves of the images that are clustered anew, for the stability.
        seed: Of folds and halves.

    Raises:
        ValueError: If a number is outside its range, or there is no clusterer.

    Example:
        >>> from detaux_pl.cluster.kmeans import KMeans
        >>> erasing = Erasing([KMeans(2), KMeans(4), KMeans(8), KMeans(16)])
        >>> [name for name, _ in erasing.members][-2:]
        ['KMeans 2 + KMeans 4 + KMeans 8', 'KMeans 4 + KMeans 8 + KMeans 16']

    References:
        Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form": the erasure.
        Romera-Paredes et al. 2012, "Exploiting Unrelated Tasks in Multi-Task Learning": that tasks
        unlike the principal one help by what they are orthogonal to.
    """

    def __init__(
        self,
        clusterers: list[Clusterer],
        together: int = 3,
        pca: int = 200,
        axes: int = 50,
        shrinkage: float = 0.1,
        folds: int = 5,
        repeats: int = 2,
        confirmations: int = 1,
        margin: float = 1.0,
        halves: int = 5,
        seed: int = 0,
    ) -> None:
        if not clusterers:
            raise ValueError("there is no clusterer: give at least one.")
        if min(together, pca, axes, repeats, confirmations, halves) < 1:
            raise ValueError(
                f"together is {together}, pca {pca}, axes {axes}, repeats {repeats}, "
                f"confirmations {confirmations} and halves {halves}: give at least 1 of each."
            )
        if folds < 2:
            raise ValueError(f"folds is {folds}: give at least 2.")
        if not (shrinkage >= 0 and margin >= 0):
            raise ValueError(f"shrinkage is {shrinkage} and margin {margin}: give numbers from 0.")
        self.clusterers = clusterers
        self.together = together
        self.pca = pca
        self.axes = axes
        self.shrinkage = shrinkage
        self.folds = folds
        self.repeats = repeats
        self.confirmations = confirmations
        self.margin = margin
        self.halves = halves
        self.seed = seed

    @property
    def members(self) -> list[tuple[str, tuple[int, ...]]]:
        """Each candidate by its name and the clusterers that it is of."""
        names = name_clusterers([clusterer.settings for clusterer in self.clusterers])
        windows: list[tuple[int, ...]] = [(k,) for k in range(len(names))]
        if 1 < self.together <= len(names):
            windows += [
                tuple(range(k, k + self.together)) for k in range(len(names) - self.together + 1)
            ]
        return [(" + ".join(names[k] for k in window), window) for window in windows]


@dataclass
class ErasureCandidate:
    """Groupings that may be erased, with what is known of them.

    Args:
        name: Of their clusterers.
        clusterers: Settings of these.
        n_clusters: Number of clusters of each.
        gain: What erasing them adds to the log-likelihood of a labelled image held out [nats].
        error: Its standard error, over images.
        accuracy: Share of the images held out that the classifier tells rightly afterwards.
        ami_principal: Largest AMI of one of them with the given labels; 0 where independent.
        stability: Mean AMI with what the clusterers find in random halves of the images.
        refused: Why it is not chosen, in words; None where it is.
    """

    name: str
    clusterers: list[dict[str, Any]]
    n_clusters: list[int] = field(default_factory=list)
    gain: float = 0.0
    error: float = 0.0
    accuracy: float = 0.0
    ami_principal: float = 0.0
    stability: float | None = None
    refused: str | None = None


class Choice(NamedTuple):
    """What is to be erased.

    Args:
        groups: Label of every row in each grouping to erase, or `IGNORED`, int64, shape (n, m); m
            is 0 where nothing is.
        proposed: The same of the best candidate, whether it is erased or not.
        candidates: All candidates, by falling gain.
        verdict: See `choose_erasure`.
    """

    groups: Labels
    proposed: Labels
    candidates: list[ErasureCandidate]
    verdict: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """All but the labels, as JSON can hold it."""
        return {"verdict": self.verdict, "candidates": [asdict(c) for c in self.candidates]}


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
    coordinates = project(features, erasing.pca)
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
    return Choice(taken, proposed, sorted(found, key=lambda c: -c.gain), verdict)


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
    predicted = np.where(labels >= 0, labels, probe.logits(coordinates).argmax(axis=1))
    erased = fit_erasure(coordinates, predicted, erasing.shrinkage)(coordinates)
    return project(erased, erasing.axes)


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
    rows = np.flatnonzero(labels >= 0)
    rows = rows[np.bincount(labels[rows])[labels[rows]] > 1]
    if not len(rows):
        raise UserError(
            "no class has two labelled images, so none can be held out: label more of them."
        )
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
    numbers = (
        f"The best of them, {best.name}, adds {best.gain:+.2f} ± {best.error:.2f} to the "
        f"log-likelihood of labelled images held out, and {erasing.margin:g} standard errors are "
        "asked for."
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
    from scipy.stats import t

    n_folds = erasing.folds
    gains = told[..., 1] - told[..., 0]
    means = np.array(
        [
            gains[folds[:, deal] == out, deal].mean()
            for deal, out in np.ndindex(folds.shape[1], n_folds)
            if (folds[:, deal] == out).any()
        ]
    )
    gain, p = float(gains.mean()), float(gains.mean() <= 0)
    if len(means) > 1 and np.ptp(means):
        error = means.std(ddof=1) * np.sqrt(1 / len(means) + 1 / (n_folds - 1))
        p = float(t.sf(means.mean() / error, len(means) - 1))
    alone, together = told[..., 0].mean(), told[..., 1].mean()
    accuracy = right.mean(axis=(0, 1))
    numbers = (
        f"On labelled images held out, the log-likelihood of {principal} is {together:.2f} with "
        f"{chosen.name} erased, {alone:.2f} without ({gain:+.2f}, p = {p:.2g}, {len(means)} folds "
        f"that the choice has not seen), its accuracy {accuracy[1]:.1%} and {accuracy[0]:.1%}."
    )
    # The folds are of the same images, so the confirmation alone is no better a witness.
    both = erasing.repeats * chosen.gain + erasing.confirmations * gain
    return {
        **_tell(both > 0, [numbers] if both > 0 else [numbers, ADVICE]),
        "chosen": [chosen.name],
        "alone": float(alone),
        "together": float(together),
        "accuracy_alone": float(accuracy[0]),
        "accuracy_together": float(accuracy[1]),
        "gain": gain,
        "p_value": p,
    }


def _tell(found: bool, details: list[str]) -> dict[str, Any]:
    headline = f"{'Groups' if found else 'No groups'} worth erasing were found"
    sentence = " ".join([f"{headline}.", *details])
    return {"found": found, "headline": headline, "details": details, "sentence": sentence}
