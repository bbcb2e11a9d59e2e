"""The shortcut alarm: discovered groups that go with the label, and the images that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels, load_tasks
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.agreement import some_rows
from detaux_pl.cluster.relation import PERMUTATIONS, Relation, count, rare_cells
from detaux_pl.cluster.tried import read_of_stage
from detaux_pl.metrics.agreement import agreement

SHORTCUTS = "shortcuts.json"
"""How all groupings relate to the label, and the alarms: a file of the stage."""
SHORTCUT_GROUPS = "shortcuts"
"""Folder of the stage with the groups of each alarm, as `save_tasks` writes them."""
_CELLS = 12
"""Rare cells of an alarm that are listed."""
_TOLD = 3
"""Those that the sentence names."""
_IMAGES = 10
"""Images of each that are shown."""
_FINER = 0.03
"""Cramér's V that twice as many groups make up for, where one alarm stands for several."""
_ALIKE = 0.5
"""NMI from which two groupings are one alarm."""


class Cell(TypedDict):
    """Training images of a class in a group where they are fewer than by chance."""

    label: int
    group: int
    n: int
    of: int
    expected: float
    ids: list[Any]


class Alarm(TypedDict):
    """Groups that go with the label."""

    name: str
    effect: float
    p_value: float
    sentence: str
    rare: int
    cells: list[Cell]
    known: dict[str, float]
    alike: list[str]


class Shortcuts(TypedDict):
    """The content of the file."""

    sentence: str
    alarms: list[Alarm]
    relations: list[dict[str, Any]]


def read_shortcuts(stage: StageFolder) -> Shortcuts | None:
    """Read how groups relate to the label; None of runs of earlier versions.

    Raises:
        ArtifactError: If the file was changed or is damaged.
    """
    return read_of_stage(stage, SHORTCUTS, Shortcuts)


def read_shortcut_groups(stage: StageFolder) -> list[AuxiliaryLabels]:
    """Read the groups of each alarm, in their order.

    Raises:
        ArtifactError: If a file was changed or is damaged.
    """
    first = f"{SHORTCUT_GROUPS}/labels.npz"
    if stage.manifest is None or first not in stage.manifest["outputs"]:
        return []
    stage.output(first)
    return load_tasks(stage.path / SHORTCUT_GROUPS)


def find_shortcuts(
    tasks: Mapping[str, AuxiliaryLabels], codes: Codes, relations: Sequence[Relation]
) -> Shortcuts:
    """Say which discovered groups go with the label, those that do most first.

    Known factors raise no alarm; of each alarm it is said how its groups agree with them.

    Args:
        tasks: Labels of each grouping, by name, of the samples of the codes.
        codes: The codes, for the labels of the training samples.
        relations: How each relates to the label.
    """
    train = codes.rows("train")
    labels = codes.factor(codes.info.principal)[train]
    groups = {name: train_groups(task) for name, task in tasks.items()}
    of = dict(zip(tasks, relations, strict=True))
    # Half of the groups of a shortcut go with the label as far as all: finer ones come first.
    ranked = sorted(
        tasks, key=lambda name: -of[name].effect - _FINER * np.log2(tasks[name].n_classes)
    )
    alarms: list[Alarm] = []
    for name in ranked:
        if of[name].kind != "shortcut":
            continue
        first = next((a for a in alarms if _nmi(groups[a["name"]], groups[name]) >= _ALIKE), None)
        if first is None:
            alarms.append(_alarm(name, of[name], groups[name], labels, codes, len(tasks)))
        else:
            first["alike"].append(name)
    sentence = f"No shortcut was found among {len(tasks)} grouping(s) of the codes."
    if alarms:
        sentence = " ".join(alarm["sentence"] for alarm in alarms)
    rows = [{"name": name, **asdict(of[name])} for name in ranked]
    return {"sentence": sentence, "alarms": alarms, "relations": rows}


def train_groups(task: AuxiliaryLabels) -> NDArray[np.int64]:
    """Cluster of each training sample, or `IGNORED`."""
    found: NDArray[np.int64] = task.without_noise().labels[task.splits == 0]
    return found


def _alarm(
    name: str,
    relation: Relation,
    groups: NDArray[np.int64],
    labels: NDArray[np.int64],
    codes: Codes,
    n_groupings: int,
) -> Alarm:
    counts = count(groups, labels)
    sizes = counts.sum(axis=1)
    rare, expected = rare_cells(counts)
    lack = (counts - expected) / np.sqrt(np.maximum(expected, 1e-9))
    order = np.argsort(lack, axis=None, kind="stable")
    train = codes.rows("train")
    cells: list[Cell] = []
    for k, g in zip(*np.unravel_index(order, counts.shape), strict=True):
        if counts[k, g] == 0 or not rare[k, g] or len(cells) == _CELLS:
            continue
        rows = train[np.flatnonzero((labels == k) & (groups == g))[:_IMAGES]]
        cells.append(
            {
                "label": int(k), "group": int(g), "n": int(counts[k, g]), "of": int(sizes[k]),
                "expected": float(expected[k, g]), "ids": codes.ids[rows].tolist(),
            }
        )  # fmt: skip
    principal = codes.info.principal
    names = codes.info.names_of(principal)
    told = ", ".join(
        f"{principal} {names[cell['label']]} in cluster {cell['group']}: {cell['n']:,} of "
        f"{cell['of']:,} images"
        for cell in cells[:_TOLD]
    )
    at_most = relation.p_value <= 1 / (1 + PERMUTATIONS)
    others = [factor for factor in codes.info.names if factor != principal]
    return {
        "name": name,
        "effect": relation.effect,
        "p_value": relation.p_value,
        "sentence": (
            f"Shortcut alarm: the groups of {name} go with {principal} without being it (Cramér's "
            f"V {relation.effect:.2f}, p {'≤' if at_most else '='} {relation.p_value:.2g}, "
            f"corrected for {n_groupings} grouping(s)), so a classifier may tell {principal} by "
            f"them{f'; {told}' if told else ''}."
        ),
        "rare": int(counts[rare].sum()),
        "cells": cells,
        "known": {factor: _nmi(codes.factor(factor)[train], groups) for factor in others},
        "alike": [],
    }


def _nmi(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    some = some_rows(len(first))
    first, second = first[some], second[some]
    both = (first != IGNORED) & (second != IGNORED)
    return float(agreement(first[both], second[both])["nmi"]) if both.any() else 0.0
