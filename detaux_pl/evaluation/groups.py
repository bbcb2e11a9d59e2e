"""For whom networks fail: accuracy of each class in each discovered group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.evaluation.errors import Rows
from detaux_pl.evaluation.significance import wilson_ends
from detaux_pl.evaluation.together import Together
from detaux_pl.settings.build import StageConfig
from detaux_pl.settings.names import arm_folder

_LISTED = 1000
"""Cells of an arm that the report lists, at most."""
_PARTS = ("val", "test")


@dataclass(frozen=True)
class GroupSheet:
    """Right answers of one arm by class and group, on validation and on test images.

    Args:
        classes: Names of the C classes.
        groups: Names of the G groups.
        n: Images, validation then test, int64, shape (2, C, G).
        hits: Those of them that are told right, int64, shape (2, C, G).
        train: Training images, int64, shape (C, G); None where that is not known.
    """

    classes: tuple[str, ...]
    groups: tuple[str, ...]
    n: NDArray[np.int64]
    hits: NDArray[np.int64]
    train: NDArray[np.int64] | None = None

    @property
    def accuracy(self) -> tuple[float, float]:
        """Share of all images in a group that are told right, on validation and on test."""
        val, test = self.hits.sum(axis=(1, 2)) / self.n.sum(axis=(1, 2))
        return float(val), float(test)

    @property
    def ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Wilson intervals of all cells, NaN of an empty one, each shape (2, C, G)."""
        return wilson_ends(self.hits, self.n)

    @property
    def worst(self) -> tuple[int, int] | None:
        """Class and group that validation images say are told worst; None where none has both.

        It is the cell whose interval ends lowest: a few images cannot make a cell the worst, as
        the least accuracy can. Test images have no say in the choice, so that their accuracy in
        the cell, and its interval, need no correction for it.
        """
        high = np.where((self.n > 0).all(axis=0), self.ends[1][0], np.inf)
        place = int(high.argmin())
        return None if np.isinf(high.flat[place]) else divmod(place, len(self.groups))

    @property
    def failing(self) -> NDArray[np.bool_]:
        """Cells told worse than all images, shape (C, G).

        Those whose interval ends below the accuracy of all, on validation and again on test
        images: of cells that are no worse, at most 0.025² are called so.
        """
        mean = np.array(self.accuracy)[:, None, None]
        below: NDArray[np.bool_] = np.logical_and.reduce(self.ends[1] < mean)
        return below

    def rows(self) -> Rows:
        """List all cells with an image, those first whose intervals on test end lowest.

        Returns:
            `class`, `group`, `train_images`, and of validation (`val_`) and `test_` the number of
            `images`, `accuracy`, its interval `low` and `high` and its `gap` to that of all
            images; whether the cell is `failing`. None where a number is not defined.
        """
        low, high = self.ends
        share = self.hits / np.where(self.n > 0, self.n, np.nan)
        gap = share - np.array(self.accuracy)[:, None, None]
        failing = self.failing
        places = np.argwhere(self.n.sum(axis=0) > 0)
        key = np.where(np.isnan(high[1]), np.inf, high[1])[tuple(places.T)]
        rows = []
        for k, g in places[np.argsort(key, kind="stable")].tolist():
            row: dict[str, Any] = {"class": self.classes[k], "group": self.groups[g]}
            row["train_images"] = None if self.train is None else int(self.train[k, g])
            for part, name in enumerate(_PARTS):
                row[f"{name}_images"] = int(self.n[part, k, g])
                for what, values in (("accuracy", share), ("low", low), ("high", high),
                                     ("gap", gap)):  # fmt: skip
                    value = float(values[part, k, g])
                    row[f"{name}_{what}"] = None if np.isnan(value) else value
            rows.append({**row, "failing": bool(failing[k, g])})
        return rows

    def worst_row(self) -> dict[str, Any] | None:
        """Return the row of the worst cell."""
        if self.worst is None:
            return None
        name = self.classes[self.worst[0]], self.groups[self.worst[1]]
        return next(row for row in self.rows() if (row["class"], row["group"]) == name)


def name_groups(
    shortcuts: Sequence[AuxiliaryLabels], tasks: Sequence[AuxiliaryLabels]
) -> dict[str, AuxiliaryLabels]:
    """Name the groups that a run has: `shortcut1` and so on, then `task1`.

    Args:
        shortcuts: Groups of each alarm, which mislead classifiers the most.
        tasks: The discovered tasks.
    """
    named = {f"shortcut{k}": task for k, task in enumerate(shortcuts, start=1)}
    return named | {f"task{k}": task for k, task in enumerate(tasks, start=1)}


def find_refitted(run_dir: Path, arms: Iterable[str]) -> set[str]:
    """Name the arms whose networks were fitted anew to the validation images.

    What they say of these is no longer what they would say of others, so that the worst cell may
    be another one; test images tell its accuracy all the same.

    Args:
        run_dir: Folder of the run.
        arms: Names of its arms.
    """
    found = set()
    for arm in arms:
        for path in sorted((run_dir / arm_folder(arm)).glob("seed*/config.yaml"))[:1]:
            config = StageFolder(run_dir, path.parent.relative_to(run_dir).as_posix()).read(
                path.name, StageConfig
            )
            model: Any = locate(config["model"]["class_path"])
            if getattr(model, "refitted", False):
                found.add(arm)
    return found


def group_sheet(
    val: Together,
    test: Together,
    task: AuxiliaryLabels,
    principal: NDArray[np.int64] | None = None,
) -> GroupSheet:
    """Count right answers by class and group.

    Args:
        val: What the networks of an arm say of the validation images.
        test: What they say of the test images.
        task: The discovered groups; images in none are left out.
        principal: Principal label of each sample of the task, for the training images.

    Raises:
        UserError: If the groups are fewer than two, or no validation or test image is in one.
    """
    shape = (len(test.classes), task.n_classes)
    n, hits = np.zeros((2, *shape), np.int64), np.zeros((2, *shape), np.int64)
    for part, own in enumerate((val, test)):
        groups = task.of(own.ids)
        inside = groups != IGNORED
        if not inside.any():
            raise UserError(
                f"no labelled {_PARTS[part]} image is in a group, so nothing can be said of any: "
                "cluster with noise: own_class or nearest, or give the data more of them."
            )
        cells = own.targets[inside] * shape[1] + groups[inside]
        n[part] = np.bincount(cells, minlength=n[part].size).reshape(shape)
        right = np.bincount(cells[own.right[inside]], minlength=n[part].size)
        hits[part] = right.reshape(shape)
    if (n.sum(axis=(0, 1)) > 0).sum() < 2:
        raise UserError(
            "all validation and test images are in one group: there is nothing beside the classes, "
            "which `detaux errors` lists."
        )
    train = None
    if principal is not None:
        seen = (task.splits == 0) & (task.labels != IGNORED) & (principal >= 0)
        cells = principal[seen] * shape[1] + task.labels[seen]
        train = np.bincount(cells, minlength=n[0].size).reshape(shape)
    return GroupSheet(test.classes, task.class_names, n, hits, train)


def describe_groups(sheet: GroupSheet) -> dict[str, Any]:
    """Put together what a report says of one arm: long lists are cut, and their lengths told."""
    rows = sheet.rows()
    return {
        "accuracy": dict(zip(_PARTS, sheet.accuracy, strict=True)),
        "worst": sheet.worst_row(),
        "n_cells": len(rows),
        "n_failing": int(sheet.failing.sum()),
        "n_without_val": sum(row["val_images"] == 0 for row in rows),
        "cells": rows[:_LISTED],
    }


def members(test: Together, task: AuxiliaryLabels, row: dict[str, Any]) -> NDArray[np.int64]:
    """Return the test images of a cell, mistakes first: indices into those of `test`."""
    groups = task.of(test.ids)
    named = (test.classes.index(row["class"]), task.class_names.index(row["group"]))
    found = np.flatnonzero((test.targets == named[0]) & (groups == named[1]))
    return found[np.argsort(test.right[found], kind="stable")]
