"""The selection of `cluster`: candidates tried on images by nets, the best ones confirmed.

Imports no torch by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.labels import AuxiliaryLabels, save_tasks
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.cluster.candidates import (
    Candidate,
    Selection,
    choose,
    judge,
    pick_tries,
    propose,
    proposing_subspaces,
)
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.related import look_beside, relate_candidates
from detaux_pl.cluster.shortcuts import Shortcuts
from detaux_pl.cluster.tried import UseVerdict, tell
from detaux_pl.cluster.uses import LEAVE, judge_uses, pick_for_uses
from detaux_pl.pipeline.workers import Workers

if TYPE_CHECKING:
    from detaux_pl.multitask.cross_fit import CrossFit

Tasks = Mapping[str, Sequence[Candidate]]
"""What nets learn beside the principal task, by a name."""


@dataclass(frozen=True)
class CrossFits:
    """Trains nets that learn candidates, each cross-fit in a folder of its own.

    Args:
        run_dir: Folder of the run.
        room: Folder of all nets of the stage.
        nets: Settings of the nets.
        workers: The processes that train them; None for this one.
    """

    run_dir: Path
    room: Path
    nets: Mapping[str, Any]
    workers: Workers | None

    def __call__(
        self,
        name: str,
        tasks: Tasks,
        seeds: Sequence[int],
        models: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, list[CrossFit]]:
        """Train what is not trained yet.

        Args:
            name: Name of the folder.
            tasks: What to learn.
            seeds: Seeds of the cross-fits of each.
            models: Names, in the settings of the nets, of models other than the usual ones.

        Returns:
            Of each task a cross-fit by seed.
        """
        from detaux_pl.pipeline.nets import run_nets

        plans: dict[str, dict[str, Any]] = {}
        for task, candidates in tasks.items():
            labels = None
            if candidates:
                labels = self.room / name / "labels" / task
                labels.mkdir(parents=True, exist_ok=True)
                save_tasks([c.task for c in candidates if c.task is not None], labels)
            own = {"model": models[task]} if task in models else {}
            for seed in seeds:
                plans[f"{task}-{seed}"] = {"labels": labels and str(labels), "seed": seed, **own}
        plan = {**self.nets, "rounds": 1, "replace": False, "fits": plans}
        fits = run_nets(self.run_dir, self.room / name, plan, self.workers).fits
        return {task: [fits[f"{task}-{seed}"] for seed in seeds] for task in tasks}


class Selected(NamedTuple):
    """What a selection found.

    Args:
        candidates: All candidates, those that cannot become tasks last.
        chosen: Those that were chosen as tasks, the best one first.
        known: `verdict`, see `judge`, and `uses`, see `judge_uses`, where these were asked for.
        related: How the candidates relate to the label, and the groups of the alarms.
    """

    candidates: list[Candidate]
    chosen: list[Candidate]
    known: dict[str, Any]
    related: tuple[Shortcuts, list[AuxiliaryLabels]]


def select_tasks(
    sources: Mapping[str, Codes],
    discovery: Discovery,
    selection: Selection,
    cross_fits: CrossFits,
) -> Selected:
    """Propose candidates, try them on images, choose and confirm.

    Args:
        sources: Codes by the name of their stage, of the same samples.
        discovery: The settings that all candidates share.
        selection: How they are tried and chosen.
        cross_fits: Trains the nets.
    """
    n_subspaces = sum(
        len(proposing_subspaces(c, discovery)) + 1 + (discovery.scope == "within_class")
        for c in sources.values()
    )
    with progress_bar("candidates", n_subspaces * (1 + len(selection.clusterers))) as advance:
        candidates = propose(sources, discovery, selection, advance)
        beside = look_beside(sources, discovery, selection, advance)
    everything = [*candidates, *beside]
    related = relate_candidates(everything, sources, discovery.seed)
    chosen = _choose_tried(candidates, discovery, selection, cross_fits)
    # Seeds that the choice has not seen.
    again = [discovery.seed + 1 + k for k in range(selection.confirmations)]
    alone = together = np.zeros(0)
    if len(chosen) == discovery.n_tasks:
        fits = cross_fits("confirmations", {"single": (), "chosen": chosen}, again)
        alone, together = (
            np.concatenate([fit.accuracies()[:, 0] for fit in fits[arm]])
            for arm in ("single", "chosen")
        )
    principal = next(iter(sources.values())).info.principal
    n_folds = cross_fits.nets["folds"]
    verdict = judge(chosen, discovery.n_tasks, n_folds, alone, together, principal)
    known: dict[str, Any] = {"verdict": verdict}
    if selection.uses and (asked := pick_for_uses(everything, chosen, related[1], selection)):
        uses = try_uses(asked, partial(cross_fits, seeds=again))
        details = [*verdict["details"], *(each["sentence"] for each in uses)]
        told = tell(verdict["found"], verdict["headline"], details)
        known = {"verdict": {**verdict, **told}, "uses": uses}
    return Selected(everything, chosen, known, related)


def _choose_tried(
    candidates: Sequence[Candidate],
    discovery: Discovery,
    selection: Selection,
    cross_fits: CrossFits,
) -> list[Candidate]:
    """Try the most promising candidates, fill in what came of it, and take the best."""
    picked = pick_tries(candidates, selection, discovery.n_tasks)
    if not picked:
        return []
    tried = {f"candidate{k}": candidate for k, candidate in enumerate(picked)}
    tasks: Tasks = {"single": (), **{name: (candidate,) for name, candidate in tried.items()}}
    fits = {name: fit for name, (fit,) in cross_fits("tries", tasks, [discovery.seed]).items()}
    single = fits["single"].accuracies()[:, 0]
    for name, candidate in tried.items():
        candidate.gain = float((fits[name].accuracies()[:, 0] - single).mean())
        candidate.learnability = fits[name].learnability()
    return choose(candidates, selection, discovery.n_tasks)


def try_uses(
    candidates: Sequence[Candidate], cross_fit: Callable[..., Mapping[str, Sequence[CrossFit]]]
) -> list[UseVerdict]:
    """Say what each candidate is good for, by nets that leave it, learn it and balance it.

    Args:
        candidates: The candidates.
        cross_fit: Trains nets as `CrossFits` does, of seeds of its own.
    """
    tasks: dict[str, Sequence[Candidate]] = {LEAVE: ()}
    for k, candidate in enumerate(candidates):
        tasks |= {f"learn{k}": (candidate,), f"balance{k}": (candidate,)}
    balanced = {f"balance{k}": "balance" for k in range(len(candidates))}
    fits = cross_fit("uses", tasks, models=balanced)
    alone = fits[LEAVE]
    rows = alone[0].train
    labels, folds = alone[0].targets[rows, 0], np.stack([fit.folds for fit in alone])

    def right(task: str) -> NDArray[np.bool_]:
        return np.stack([fit.out_of_fold()[0][rows].argmax(axis=1) == labels for fit in fits[task]])

    left, found = right(LEAVE), []
    for k, candidate in enumerate(candidates):
        told = {LEAVE: left, "learn": right(f"learn{k}"), "balance": right(f"balance{k}")}
        groups = fits[f"learn{k}"][0].targets[rows, 1]
        found.append(judge_uses(candidate.name, told, folds, labels, groups))
    return found
