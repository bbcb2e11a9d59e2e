"""Candidate tasks: every free subspace by every clusterer, and what can be known of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.cluster.agreement import UNLIKE, agreement, some_rows
from detaux_pl.cluster.base import Clusterer
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.relation import Kind
from detaux_pl.cluster.resampled import resampled_p
from detaux_pl.cluster.subspace import score_subspaces
from detaux_pl.cluster.tried import tell

SAME = 0.95
"""AMI from which two candidates are the same task."""
WORTH = 0.0
"""Gain of accuracy that a task must show on the confirmations."""
SURE = 0.1
"""p-value below which it counts: a task refused costs its gain, one taken in vain a training."""
ADVICE = (
    "Try more restarts or clusterers, train the disentangler longer or take another one, or do "
    "without: the principal task alone is the better choice here."
)


class Selection:
    """How candidate tasks are proposed, tried and chosen.

    Every free subspace of the codes of every restart is clustered by every clusterer. What codes
    alone can tell rules some out; the most stable of the others are tried on images: nets are
    trained on all training images but a fold, with the candidate and without any, and say of
    the fold what they make of it. No label of the validation and test images is read.

    Args:
        clusterers: What groups the codes, beside the clusterer of the stage.
        tries: Number of candidates to try on images, at most.
        confirmations: Number of cross-fits, with folds and seeds of their own, that the verdict
            on the best candidate rests on.
        max_ami: Adjusted mutual information with the principal task up to which a candidate is
            unrelated to it.
        max_share: Share of the labelled training samples that the largest class may have.
        min_class: Number of training samples that the smallest class must have.
        min_learnability: What of the labels nets must be able to tell of images they never saw,
            from 0 (no more than the largest class) to 1.
        halves: Number of random halves of the training samples that are clustered anew, for the
            stability.
        uses: Whether to try, too, what the best task and the groups of the first shortcut alarm,
            or else the most stable subclasses, are good for: to be learned, to be balanced, or to
            be left alone.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> found = Candidate("cluster", 1, {"class": "KMeans"}, smallest=50, largest=0.5)
        >>> found.ami_principal = 0.2
        >>> rule_out(found, Selection())
        'it repeats the principal task (AMI 0.20)'
        >>> rule_out(found, Selection(max_ami=0.3)) is None
        True
    """

    def __init__(
        self,
        clusterers: list[Clusterer] | None = None,
        tries: int = 6,
        confirmations: int = 2,
        max_ami: float = 0.1,
        max_share: float = 0.9,
        min_class: int = 8,
        min_learnability: float = 0.2,
        halves: int = 5,
        uses: bool = False,
    ) -> None:
        if min(tries, confirmations, min_class, halves) < 1:
            raise ValueError(
                f"tries is {tries}, confirmations {confirmations}, min_class {min_class} and "
                f"halves {halves}: give at least 1 of each."
            )
        for name, share in (
            ("max_ami", max_ami), ("max_share", max_share), ("min_learnability", min_learnability),
        ):  # fmt: skip
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}: give a number from 0 to 1.")
        self.clusterers = clusterers or []
        self.tries = tries
        self.confirmations = confirmations
        self.max_ami = max_ami
        self.max_share = max_share
        self.min_class = min_class
        self.min_learnability = min_learnability
        self.halves = halves
        self.uses = uses


@dataclass
class Candidate:
    """A proposed task with what is known of it.

    Args:
        codes: The stage whose codes were clustered.
        subspace: The subspace.
        clusterer: The clusterer and its settings.
        task: Its labels; None where there are not two clusters.
        n_classes: Number of classes.
        smallest: Training samples in the smallest one.
        largest: Share of the labelled training samples in the largest one.
        balance: Entropy of the classes over that of as many equal ones.
        noise: Share of the training samples in no cluster.
        ami_principal: AMI with the principal task; 0 where they are independent.
        stability: Mean AMI with what the clusterer finds in a random half of the training samples.
        restarts: Largest AMI with a candidate of each other restart, their mean; None of one.
        learnability: Share of the labels, beyond the largest cluster's, that nets tell of images
            they never saw; None where it was not tried.
        gain: Mean over the folds of what a net that learns it too has more of accuracy of the
            principal task, on images it never saw; None where it was not tried.
        refused: Why it is not chosen, in words; None where it may be.
        kind: What the clusterer is called among the others.
        scope: `free` subspaces give tasks; the `principal` one and classes by themselves
            (`within_class`) are looked at for shortcuts and subclasses alone.
        relation: `unrelated` to the label, a `shortcut`, a `subclass` or the `label` itself.
        effect: Cramér's V with the label.
        p_value: That it goes with the label by chance, corrected for the number of candidates.
    """

    codes: str
    subspace: int
    clusterer: dict[str, Any]
    task: AuxiliaryLabels | None = None
    n_classes: int = 0
    smallest: int = 0
    largest: float = 1.0
    balance: float = 0.0
    noise: float = 0.0
    ami_principal: float = 0.0
    stability: float = 0.0
    restarts: float | None = None
    learnability: float | None = None
    gain: float | None = None
    refused: str | None = None
    kind: str = ""
    scope: Literal["free", "principal", "within_class"] = "free"
    relation: Kind | None = None
    effect: float | None = None
    p_value: float | None = None

    @property
    def name(self) -> str:
        """The clusterer, the subspace, and the restart where there are several."""
        name = f"{self.kind or _name_clusterer(self.clusterer)} · subspace {self.subspace}"
        name += " · within classes" if self.scope == "within_class" else ""
        restart = re.fullmatch(r"discoveries/(restart\d+)/.*", self.codes)
        return name if restart is None else f"{name} · {restart[1]}"

    def record(self) -> dict[str, Any]:
        """What is known of it, as JSON can hold it."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "task"}
        return {"name": self.name, **known}


def propose(
    sources: Mapping[str, Codes],
    discovery: Discovery,
    selection: Selection,
    progress: Callable[[int], object] = lambda n: None,
) -> list[Candidate]:
    """Cluster every free subspace of all codes by every clusterer.

    Args:
        sources: Codes by the name of their stage, of the same samples.
        discovery: The settings that all candidates share.
        selection: What else to cluster with, and what rules candidates out.
        progress: Called with 1 after each candidate.

    Returns:
        The candidates with all scores that codes give, those that may be tried first, by falling
        stability.
    """
    found = [
        candidate
        for stage, codes in sources.items()
        for candidate in of_codes(
            stage, codes, discovery, selection, proposing_subspaces(codes, discovery), progress
        )
    ]
    _compare_restarts(found)
    for candidate in found:
        if candidate.refused is None:
            candidate.refused = rule_out(candidate, selection)
    found.sort(key=lambda c: (c.refused is not None, -c.stability))
    _rule_out_repeats(found)
    found.sort(key=lambda c: (c.refused is not None, -c.stability))
    return found


def proposing_subspaces(codes: Codes, discovery: Discovery) -> list[int]:
    """Return the subspaces that candidates come from: those given, or all but the principal one.

    Raises:
        UserError: If there is no such subspace.
    """
    given = discovery.given_subspaces(codes.values.shape[1])
    if given is not None:
        return given
    return [k for k in range(codes.values.shape[1]) if k != codes.info.principal_subspace]


def rule_out(candidate: Candidate, selection: Selection) -> str | None:
    """Why codes alone say that a candidate is no task to train on; None where they do not."""
    if candidate.smallest < selection.min_class:
        return (
            f"its smallest of {candidate.n_classes} classes has {candidate.smallest} training "
            f"samples, fewer than {selection.min_class}"
        )
    if candidate.largest > selection.max_share:
        return f"one class has {candidate.largest:.0%} of the samples"
    if candidate.ami_principal > selection.max_ami:
        return f"it repeats the principal task (AMI {candidate.ami_principal:.2f})"
    return None


def choose(
    candidates: Sequence[Candidate], selection: Selection, n_tasks: int = 1
) -> list[Candidate]:
    """Take the candidates with the largest gain that are unlike one another.

    Args:
        candidates: All candidates, some of them tried; those that nets cannot learn are refused.
        selection: What rules candidates out.
        n_tasks: How many to take, at most.

    Returns:
        Those that may be chosen, the best one first; the further ones gain something too.
    """
    for candidate in candidates:
        told = candidate.learnability
        if candidate.refused is None and told is not None and told < selection.min_learnability:
            candidate.refused = f"nets cannot tell it of images they never saw ({told:.2f})"
    chosen: list[Candidate] = []
    ranked = [c for c in candidates if c.refused is None and c.gain is not None]
    for candidate in sorted(ranked, key=lambda c: -(c.gain or 0.0)):
        gains = not chosen or (candidate.gain or 0.0) > 0
        if len(chosen) < n_tasks and gains and _is_unlike(candidate, chosen):
            chosen.append(candidate)
    return chosen


def pick_tries(
    candidates: Sequence[Candidate], selection: Selection, n_tasks: int = 1
) -> list[Candidate]:
    """Take the candidates to try on images: the most stable ones.

    Where several tasks are wanted, those that are unlike one another come first, so that not all
    tries go to the same grouping, finer and coarser.
    """
    left = [candidate for candidate in candidates if candidate.refused is None]
    unlike: list[Candidate] = []
    if n_tasks > 1:
        for candidate in left:
            if _is_unlike(candidate, unlike):
                unlike.append(candidate)
    taken = {id(candidate) for candidate in unlike}
    others = [candidate for candidate in left if id(candidate) not in taken]
    return [*unlike, *others][: selection.tries]


def _is_unlike(candidate: Candidate, others: Sequence[Candidate]) -> bool:
    return all(_ami(candidate, other) <= UNLIKE for other in others)


def judge(
    chosen: Sequence[Candidate],
    n_tasks: int,
    n_folds: int,
    alone: NDArray[np.float64],
    together: NDArray[np.float64],
    principal: str,
) -> dict[str, Any]:
    """Say whether a task worth training on was found, and how sure that is.

    Args:
        chosen: The best candidates.
        n_tasks: How many were asked for.
        n_folds: Number of folds of a confirmation.
        alone: Accuracy of the principal task of nets that learn it alone, on each fold of each
            confirmation, shape (n,).
        together: The same of nets that learn the chosen tasks too.
        principal: Name of the principal task.

    Returns:
        `found`, `headline` and `details`, which `sentence` joins, `chosen` (names), and where there
        was something to confirm `alone`, `together`, `gain` (means), `std` (of the gains) and
        `p_value` (paired t-test, one-sided, corrected for the training images that folds share).

    References:
        Nadeau & Bengio 2003, "Inference for the Generalization Error": the corrected resampled
        t-test. It does not correct for the best of several candidates being taken.
    """
    if len(chosen) < n_tasks:
        lead, advice = "No task worth training on was found", ADVICE
        if chosen:
            lead = f"Only {len(chosen)} of {n_tasks} tasks that gain something were found"
            advice = f"Ask for fewer (cluster.n_tasks: {len(chosen)}), or try more candidates."
        return {**tell(False, lead, [advice]), "chosen": [c.name for c in chosen]}
    gains = together - alone
    p = resampled_p(gains, n_folds)
    found = bool(gains.mean() > WORTH and p < SURE)
    numbers = (
        f"On images held out, accuracy of {principal} is {together.mean():.1%} with "
        f"{' and '.join(c.name for c in chosen)}, {alone.mean():.1%} without "
        f"({100 * gains.mean():+.1f} points, p = {p:.2g}, {len(gains)} pairs of nets)."
    )
    lead = "A task worth training on was found" if found else "No task worth training on was found"
    return {
        **tell(found, lead, [numbers] if found else [numbers, ADVICE]),
        "chosen": [c.name for c in chosen],
        "alone": float(alone.mean()),
        "together": float(together.mean()),
        "gain": float(gains.mean()),
        "std": float(gains.std(ddof=1)),
        "p_value": p,
    }


def of_codes(
    stage: str,
    codes: Codes,
    discovery: Discovery,
    selection: Selection,
    subspaces: Sequence[int],
    progress: Callable[[int], object] = lambda n: None,
    scope: Literal["free", "principal", "within_class"] = "free",
) -> Iterator[Candidate]:
    """Cluster some subspaces of codes by every clusterer; the arguments are those of `propose`.

    Args:
        stage: Name of the stage of the codes.
        codes: The codes.
        discovery: The settings that all candidates share.
        selection: What else to cluster with.
        subspaces: The subspaces.
        progress: Called with 1 after each candidate.
        scope: That of the candidates.
    """
    clusterers = (discovery.clusterer, *selection.clusterers)
    kinds = name_clusterers([clusterer.settings for clusterer in clusterers])
    ways = []
    for clusterer in clusterers:
        own = copy(discovery)
        own.clusterer = clusterer
        own.scope = "within_class" if scope == "within_class" else "all"
        ways.append((own, own.fitted_rows(codes)))
    scores = score_subspaces(codes, np.random.default_rng([discovery.seed, 0]))
    for subspace in subspaces:
        for (own, fitted), kind in zip(ways, kinds, strict=True):
            settings = own.clusterer.settings
            candidate = Candidate(stage, subspace, settings, kind=kind, scope=scope)
            try:
                candidate.task = own.label(codes, subspace, fitted, scores)
            except UserError as failure:
                candidate.refused = str(failure)
            else:
                candidate.task.meta.update(codes=stage, rule=None)
                describe(candidate, codes)
                candidate.stability = _stability(candidate, own, codes, fitted, selection.halves)
            progress(1)
            yield candidate


def name_clusterers(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name clusterers by class and number of clusters, and by what else tells them apart."""
    names = [_name_clusterer(given) for given in settings]
    for k, given in enumerate(settings):
        alike = [other for other in settings if _name_clusterer(other) == _name_clusterer(given)]
        differing = [key for key in given if any(other.get(key) != given[key] for other in alike)]
        if differing:
            names[k] += f" ({', '.join(f'{key} {given[key]}' for key in differing)})"
    return names


def _name_clusterer(settings: Mapping[str, Any]) -> str:
    number = settings.get("n_clusters")
    return f"{settings['class']}{'' if number is None else f' {number}'}"


def describe(candidate: Candidate, codes: Codes) -> None:
    """Fill in what the labels alone tell."""
    assert candidate.task is not None
    task = candidate.task
    labels = task.labels[task.splits == 0]
    sizes = np.bincount(labels[labels != IGNORED], minlength=task.n_classes)
    # A class of noise may be small, or of other splits alone, and is no part of the grouping.
    clusters = np.delete(sizes, [] if (noise := task.meta.get("noise_class")) is None else [noise])
    shares = clusters[clusters > 0] / clusters.sum()
    candidate.n_classes = task.n_classes
    candidate.smallest = int(clusters.min())
    candidate.largest = float(sizes.max() / sizes.sum())
    candidate.balance = float(-(shares * np.log(shares)).sum() / np.log(max(len(clusters), 2)))
    candidate.noise = float(task.is_noise[task.splits == 0].mean())
    principal = codes.factor(codes.info.principal)[codes.rows("train")]
    some = some_rows(len(principal))
    candidate.ami_principal = agreement(principal[some], _clusters(candidate))


def _stability(
    candidate: Candidate,
    discovery: Discovery,
    codes: Codes,
    fitted: NDArray[np.int64],
    halves: int,
) -> float:
    """Mean AMI of the labels with those that random halves of the fitted samples lead to."""
    assert candidate.task is not None
    labels = candidate.task.without_noise().labels[fitted]
    seen = replace(
        codes,
        values=codes.values[fitted],
        ids=codes.ids[fitted],
        splits=codes.splits[fitted],
        factors=codes.factors[fitted],
    )
    scores = []
    for half in range(halves):
        rng = np.random.default_rng([discovery.seed, 3, half])
        rows = np.sort(rng.choice(len(fitted), len(fitted) // 2, replace=False))
        try:
            other = discovery.label(seen, candidate.subspace, rows).without_noise()
        except UserError:
            scores.append(0.0)
        else:
            scores.append(agreement(labels, other.labels))
    return float(np.mean(scores))


def _compare_restarts(found: Sequence[Candidate]) -> None:
    """Fill in how well each candidate is found again by the other restarts."""
    stages = {candidate.codes for candidate in found}
    for candidate in found:
        if candidate.task is None or len(stages) < 2:
            continue
        best = [
            max(
                (_ami(candidate, c) for c in found if c.codes == stage and c.task is not None),
                default=0.0,
            )
            for stage in stages - {candidate.codes}
        ]
        candidate.restarts = float(np.mean(best))


def _rule_out_repeats(found: Sequence[Candidate]) -> None:
    """Refuse candidates that are the same task as one before them."""
    kept: list[Candidate] = []
    for candidate in found:
        if candidate.refused is not None:
            continue
        same = next((other for other in kept if _ami(candidate, other) >= SAME), None)
        if same is None:
            kept.append(candidate)
        else:
            candidate.refused = f"it is the same task as {same.name}"


def _clusters(candidate: Candidate) -> NDArray[np.int64]:
    """Cluster of each training sample, or of `some_rows` of them, or `IGNORED`."""
    assert candidate.task is not None
    task = candidate.task
    rows = np.flatnonzero(task.splits == 0)
    rows = rows[some_rows(len(rows))]
    few = replace(task, labels=task.labels[rows], is_noise=task.is_noise[rows])
    return few.without_noise().labels


def _ami(first: Candidate, second: Candidate) -> float:
    return agreement(_clusters(first), _clusters(second))
