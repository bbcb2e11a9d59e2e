"""What the rungs of a ladder came to, read from the folders of its chains."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.evaluation.compare import Arm, compare
from detaux_pl.evaluation.ladder import Budget, Rated, recommend, standard_error
from detaux_pl.evaluation.results import Cost, read_scores
from detaux_pl.pipeline.ladder import PARTNERS, RUNGS, Ladder


def best_networks(ladder: Ladder, labels: int | None) -> list[str]:
    """Name the best of the rungs that can learn a task too, by mean validation accuracy.

    Args:
        ladder: The ladder, of which all seeds are trained.
        labels: Labels of each class; None for all.
    """
    means = {}
    for name in (name for name in ladder.rungs if ladder.best and name in PARTNERS):
        told = [
            _accuracy([_predicted(stage, "val")])
            for seed in ladder.each
            for stage in _stages(ladder, labels, seed, name)
        ]
        if told:
            means[name] = statistics.mean(told)
    return sorted(means, key=lambda name: -means[name])[: ladder.best]


def _stages(ladder: Ladder, labels: int | None, seed: int, name: str) -> list[StageFolder]:
    """Return the finished trainings of a rung."""
    of_seed = range(seed * ladder.ensemble, (seed + 1) * ladder.ensemble)
    folder = ladder.run_dir(labels, seed)
    stages = [StageFolder(folder, f"multitask/{name}/seed{k}") for k in of_seed]
    return [stage for stage in stages if stage.complete]


def read_budget(ladder: Ladder, labels: int | None, rungs: Sequence[str], against: str) -> Budget:
    """Read what the chains of one number of labels found.

    Args:
        ladder: The ladder.
        labels: Labels of each class; None for all.
        rungs: Names of the rungs to read.
        against: That which the others are tested against.

    Raises:
        UserError: If no rung, or not the one that others are tested against, has a training.
    """
    scores: dict[str, dict[int, float]] = {}
    costs: dict[str, list[Cost]] = {}
    seconds: dict[str, list[float]] = {}
    n_test, known = 0, 0.0
    every = [ladder.run_dir(number, seed) for number in ladder.labels for seed in ladder.each]
    # Features are computed once, and kept: what that took is what the longest run says.
    codes = max(_seconds(folder, "disentangle") for folder in every)
    for seed in ladder.each:
        folder = ladder.run_dir(labels, seed)
        read = Codes.load(folder / "disentangle" / "codes", "code")
        known = (
            len(read.rows("train")) / read.info.sizes[read.info.names.index(read.info.principal)]
        )
        for name in rungs:
            stages = _stages(ladder, labels, seed, name)
            if not stages:
                continue
            told = [read_scores(stage)["test/accuracy/principal"] for stage in stages]
            took = [_seconds(folder, stage.name) for stage in stages]
            needed = _needed(folder, name, codes)
            own = [stage.read("cost.json", Cost) for stage in stages]
            scores.setdefault(name, {})[seed] = statistics.mean(told)
            costs.setdefault(name, []).extend(own)
            seconds.setdefault(name, []).append(statistics.mean(took) + needed)
            tests = [_predicted(stage, "test") for stage in stages]
            n_test = len(tests[0].ids)
            if len(stages) > 1 and RUNGS[name].kind.trained:
                together = f"{name}_ensemble"
                scores.setdefault(together, {})[seed] = _accuracy(tests)
                costs.setdefault(together, []).extend(own)
                seconds.setdefault(together, []).append(sum(took) + needed)
    if against not in scores:
        raise UserError(f"no training of {against} is finished: give another rung as --against.")
    arms = [Arm("", name, "", own, costs[name]) for name, own in scores.items()]
    comparison = compare(arms, next(arm for arm in arms if arm.arm == against))
    rated = [
        Rated(
            row.name,
            row.summary.mean,
            standard_error([*row.arm.scores.values()], n_test),
            statistics.mean(seconds[row.name]),
        )
        for row in comparison.rows
    ]
    return Budget(labels, known, n_test, comparison, rated, recommend(rated))


def _needed(folder: Path, name: str, codes: float) -> float:
    """Return what a rung took before its training: features and discovery [s]."""
    rung = RUNGS[name].kind
    discovery = sum(_seconds(folder, stage) for stage in ("cluster", "refine"))
    if rung.uses_auxiliary:
        return codes + discovery
    return codes if not rung.trained and name != "majority" else 0.0


def _seconds(folder: Path, stage: str) -> float:
    manifest = StageFolder(folder, stage).manifest
    return 0.0 if manifest is None else manifest["seconds"]


def _predicted(stage: StageFolder, split: str) -> Predictions:
    return Predictions.load(stage.path / "predictions.npz", "--redo multitask").of(split)


def _accuracy(predictions: Sequence[Predictions]) -> float:
    """Return the accuracy of the mean of the probabilities."""
    mean = np.mean([each.probabilities["principal"] for each in predictions], axis=0)
    return float((mean.argmax(axis=1) == predictions[0].target("principal")).mean())
