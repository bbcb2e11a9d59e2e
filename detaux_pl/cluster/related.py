"""Candidates beside those that may be tasks, and how all of them relate to the label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.cluster.candidates import Candidate, Selection, of_codes
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.relation import permuted_rows, relate
from detaux_pl.cluster.shortcuts import Shortcuts, find_shortcuts, train_groups

_WHY = {
    "principal": "it is of the principal subspace, which no task is taken from",
    "within_class": "it splits classes",
}


def look_beside(
    sources: Mapping[str, Codes],
    discovery: Discovery,
    selection: Selection,
    progress: Callable[[int], object] = lambda n: None,
) -> list[Candidate]:
    """Cluster the principal subspaces, and where `scope` says so each class by itself.

    A factor that goes with the label is in the principal subspace, as all that images of one
    class have in common. None of these candidates becomes a task.

    Args:
        sources: Codes by the name of their stage, of the same samples.
        discovery: The settings that all candidates share.
        selection: What else to cluster with.
        progress: Called with 1 after each candidate.
    """
    found: list[Candidate] = []
    for stage, codes in sources.items():
        principal = codes.info.principal_subspace
        own = [] if principal is None else [principal]
        given = discovery.given_subspaces(codes.values.shape[1])
        if given is None:
            found += of_codes(stage, codes, discovery, selection, own, progress, "principal")
        if discovery.scope == "within_class":
            within = own if given is None else given
            found += of_codes(stage, codes, discovery, selection, within, progress, "within_class")
    for candidate in found:
        candidate.refused = candidate.refused or _WHY[candidate.scope]
    return found


def relate_candidates(
    candidates: Sequence[Candidate], sources: Mapping[str, Codes], seed: int
) -> tuple[Shortcuts, list[AuxiliaryLabels]]:
    """Fill in how each candidate relates to the label, and raise the alarm.

    Args:
        candidates: All of them.
        sources: Codes by the name of their stage, of the same samples.
        seed: Seed of the permutations.

    Returns:
        How they relate, and the groups of each alarm.
    """
    known = [(candidate, candidate.task) for candidate in candidates if candidate.task is not None]
    codes = next(iter(sources.values()))
    train = codes.rows("train")
    some = train[permuted_rows(len(train), seed)]
    relations = relate(
        [train_groups(task) for _, task in known],
        codes.factor(codes.info.principal)[train],
        [sources[candidate.codes].values[some, candidate.subspace] for candidate, _ in known],
        seed,
    )
    for k, (candidate, _) in enumerate(known):
        if candidate.scope == "within_class":
            relations[k] = replace(relations[k], kind="subclass")
        own = relations[k]
        candidate.relation, candidate.effect, candidate.p_value = own.kind, own.effect, own.p_value
    # Tasks that were found one after the other may be of one subspace and clusterer.
    tasks: dict[str, AuxiliaryLabels] = {}
    for k, (candidate, task) in enumerate(known):
        again = sum(other.name == candidate.name for other, _ in known[:k])
        tasks[f"{candidate.name} ({again + 1})" if again else candidate.name] = task
    found = find_shortcuts(tasks, codes, relations)
    return found, [tasks[alarm["name"]] for alarm in found["alarms"]]


def relate_tasks(
    tasks: Sequence[AuxiliaryLabels],
    stage: str,
    codes: Codes,
    discovery: Discovery,
    progress: Callable[[float], object] = lambda n: None,
) -> tuple[Shortcuts, list[AuxiliaryLabels]]:
    """Say how tasks that were found by the rule relate to the label, and raise the alarm.

    Args:
        tasks: The tasks.
        stage: Name of the stage of the codes.
        codes: The codes.
        discovery: What found them.
        progress: Called with 1 after each grouping beside them.

    Returns:
        As `relate_candidates`.
    """
    within = discovery.scope == "within_class"
    candidates = [
        Candidate(
            stage, task.meta["subspace"], task.meta["clusterer"], task,
            scope="within_class" if within else "free",
        )
        for task in tasks
    ]  # fmt: skip
    # Classes by themselves are what was clustered already, where that is asked for.
    whole = copy(discovery)
    whole.scope = "all"
    found = look_beside({stage: codes}, whole, Selection(halves=1), progress)
    given = [c.subspace for c in candidates if c.scope == "free"]
    beside = [c for c in found if c.subspace not in given]
    return relate_candidates([*candidates, *beside], {stage: codes}, discovery.seed)
