"""Linear probes of several runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from detaux_pl.artifacts.errors import UserError
from detaux_pl.evaluation.requirements import requirements
from detaux_pl.report.grid import Grid, Spread, percent_cell, spread

Layout = Literal["accuracies", "summary"]
"""What a table shows. `accuracies`: a row for the whole of an input, for each slice and for the
gap between the best two of them, then chance; a column per group and task. `summary`: a row per
group; a column per number and input."""

_SUBSCRIPTS = {ord(str(digit)): 0x2080 + digit for digit in range(10)}
_REQUIREMENTS = ("R1", "R2", "R3")


@dataclass(frozen=True)
class InputSummary:
    """What the probes of one input show over the seeds of a group; shares, not per cent.

    Args:
        full: Accuracy of the whole, by task.
        slices: Accuracy of each slice, by task.
        gaps: Accuracy of the best slice minus the second best, by task; empty for one slice.
        requirements: `R1`, `R2` and `R3`, without those that are not defined.
        diagonal: Number of seeds in which each task's slice is the best at it; None where that is
            not defined.
        n: Number of seeds.
    """

    full: dict[str, Spread]
    slices: list[dict[str, Spread]]
    gaps: dict[str, Spread]
    requirements: dict[str, Spread]
    diagonal: int | None
    n: int


@dataclass(frozen=True)
class Study:
    """Linear probes of several groups of runs.

    Args:
        tasks: Tasks that all runs were probed for.
        chance: Share of the most frequent test class, by group and task.
        inputs: What the probes show, by group and input.
    """

    tasks: tuple[str, ...]
    chance: dict[str, dict[str, Spread]]
    inputs: dict[str, dict[str, InputSummary]]


def collate(groups: Mapping[str, Sequence[Mapping[str, Any]]], against: str | None = None) -> Study:
    """Take means and variances over the seeds of every group.

    Args:
        groups: Contents of `probes.json` by group, one per seed and at least one.
        against: The group without a regulariser: R3 of every run refers to the mean accuracies
            of this group's whole. None for no R3.

    Raises:
        UserError: If there is no run, runs have different tasks, runs of a group different inputs,
            or `against` is no group.
    """
    if not groups or not all(groups.values()):
        raise UserError("there is no run, or a group without one: give the probes of each group.")
    if against is not None and against not in groups:
        raise UserError(f"R3 is to refer to {against!r}: the groups are {', '.join(groups)}.")
    tasks = next(iter(groups.values()))[0]["tasks"]
    for name, runs in groups.items():
        for run in runs:
            if run["tasks"] != tasks:
                raise UserError(
                    f"{name} was probed for {', '.join(run['tasks'])}, the first run for "
                    f"{', '.join(tasks)}: probe all runs for the same tasks."
                )
            if _slices(run) != _slices(runs[0]):
                raise UserError(
                    f"{name} has runs of different inputs or numbers of slices: group runs that "
                    "differ in their seed alone."
                )
    chance, inputs = {}, {}
    for name, runs in groups.items():
        chance[name] = {task: spread([run["chance"][task] for run in runs]) for task in tasks}
        inputs[name] = {
            key: _summarise(runs, key, tasks, groups[against] if against is not None else ())
            for key in runs[0]["inputs"]
        }
    return Study(tuple(tasks), chance, inputs)


def lay_out(study: Study, layout: Layout) -> Grid:
    """Lay out a table of a study.

    Raises:
        ValueError: If there is no such layout.
    """
    if layout == "accuracies":
        return _accuracies(study)
    if layout == "summary":
        return _summary(study)
    raise ValueError(f"layout is {layout!r}: it is accuracies or summary.")


def _slices(run: Mapping[str, Any]) -> dict[str, int]:
    return {key: len(entry["slices"]) for key, entry in run["inputs"].items()}


def _summarise(
    runs: Sequence[Mapping[str, Any]],
    key: str,
    tasks: Sequence[str],
    references: Sequence[Mapping[str, Any]],
) -> InputSummary:
    """Summarise one input; the references are the runs that R3 refers to, or none."""
    entries = [run["inputs"][key] for run in runs]
    known = [run["inputs"][key]["full"] for run in references if key in run["inputs"]]
    reference = None
    if known:
        reference = {"full": {task: np.mean([full[task] for full in known]) for task in tasks}}
    asked = [
        requirements(entry, run["chance"], reference)
        for entry, run in zip(entries, runs, strict=True)
    ]
    return InputSummary(
        full={task: spread([entry["full"][task] for entry in entries]) for task in tasks},
        slices=[
            {task: spread([part[task] for part in parts]) for task in tasks}
            for parts in zip(*(entry["slices"] for entry in entries), strict=True)
        ],
        gaps={
            task: spread([each["gaps"][task] for each in asked])
            for task in tasks
            if asked[0]["gaps"][task] is not None
        },
        requirements={
            name: spread([each[name] for each in asked])
            for name in _REQUIREMENTS
            if asked[0][name] is not None
        },
        diagonal=(
            None if asked[0]["diagonal"] is None else sum(each["diagonal"] for each in asked)
        ),
        n=len(runs),
    )


def _accuracies(study: Study) -> Grid:
    heads = [(name, task) for name in study.inputs for task in study.tasks]
    blocks = []
    for key in _keys(study):
        summaries = [inputs[key] for inputs in study.inputs.values() if key in inputs]
        n_slices = max(len(each.slices) for each in summaries)
        parts = [f"{key}{str(k).translate(_SUBSCRIPTS)}" for k in range(n_slices)]
        labels = [key, *parts]
        if n_slices == 2:
            labels.append(f"|C({parts[0]}) \N{MINUS SIGN} C({parts[1]})|")
        elif n_slices > 2:
            labels.append("best \N{MINUS SIGN} second best")
        columns = [_column(study.inputs[name].get(key), task, n_slices) for name, task in heads]
        blocks.append(
            [
                (label, [percent_cell(column[row]) for column in columns])
                for row, label in enumerate(labels)
            ]
        )
    chance = [percent_cell(study.chance[name][task]) for name, task in heads]
    return Grid("input", heads, [*blocks, [("chance", chance)]])


def _column(each: InputSummary | None, task: str, n_slices: int) -> list[Spread | None]:
    """The whole, every slice and the gap; None for what a group lacks."""
    if each is None:
        return [None] * (n_slices + 2)
    lacking = [None] * (n_slices - len(each.slices))
    return [each.full[task], *(part[task] for part in each.slices), *lacking, each.gaps.get(task)]


def _keys(study: Study) -> list[str]:
    """Names of the inputs of all groups."""
    return list(dict.fromkeys(key for inputs in study.inputs.values() for key in inputs))


def _summary(study: Study) -> Grid:
    rows = {name: _numbers(inputs) for name, inputs in study.inputs.items()}
    numbers = [*study.tasks, *(f"gap {task}" for task in study.tasks), *_REQUIREMENTS, "diagonal"]
    heads = [
        (key, number)
        for key in _keys(study)
        for number in numbers
        if any((key, number) in row for row in rows.values())
    ]
    lines = [(name, [row.get(head, "") for head in heads]) for name, row in rows.items()]
    return Grid("group", heads, [lines])


def _numbers(inputs: Mapping[str, InputSummary]) -> dict[tuple[str, str], str]:
    """Write the numbers of the summary of a group by input and name."""
    shown = {}
    for key, each in inputs.items():
        named = each.full | {f"gap {task}": gap for task, gap in each.gaps.items()}
        for name, number in (named | each.requirements).items():
            shown[key, name] = percent_cell(number)
        if each.diagonal is not None:
            shown[key, "diagonal"] = f"{each.diagonal} of {each.n}"
    return shown
