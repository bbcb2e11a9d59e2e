"""Predictions: what a trained network says of each validation and test image."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import replacing

_OF_TASK = "probabilities_"
"""What the names of the arrays of tasks begin with."""


@dataclass(frozen=True)
class Predictions:
    """Probabilities of the classes of each task for N samples, in the order of their ids.

    The content of `predictions.npz`: `ids`, `splits`, `targets` and, per task,
    `probabilities_<task>`.

    Args:
        ids: Unique sample ids, int64 or unicode, shape (N,), ascending.
        splits: Index into `SPLITS` of each sample, int8, shape (N,).
        targets: Labels of the T tasks, int64, shape (N, T), or `IGNORED`.
        probabilities: By task, the principal one first, float32, shape (N, classes).
    """

    ids: NDArray[np.int64] | NDArray[np.str_]
    splits: NDArray[np.int8]
    targets: NDArray[np.int64]
    probabilities: Mapping[str, NDArray[np.float32]]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, the principal one first."""
        return tuple(self.probabilities)

    def of(self, split: str) -> Predictions:
        """Return those of one split."""
        return self.at(np.flatnonzero(self.splits == SPLITS.index(split)))

    def at(self, rows: NDArray[np.int64]) -> Predictions:
        """Return those of some rows, in the order given."""
        return Predictions(
            self.ids[rows],
            self.splits[rows],
            self.targets[rows],
            {task: values[rows] for task, values in self.probabilities.items()},
        )

    def target(self, task: str) -> NDArray[np.int64]:
        """Return the labels of one task, shape (N,)."""
        return self.targets[:, self.tasks.index(task)]

    def only(self, task: str) -> Predictions:
        """Return those of one task."""
        return replace(
            self,
            targets=self.target(task)[:, None],
            probabilities={task: self.probabilities[task]},
        )

    @staticmethod
    def join(parts: Sequence[Predictions]) -> Predictions:
        """Put parts together, such as those of several ranks.

        Raises:
            ArtifactError: If a sample is in two of them.
        """
        ids = np.concatenate([part.ids for part in parts])
        order = np.argsort(ids, kind="stable")
        repeated = np.flatnonzero(ids[order][1:] == ids[order][:-1])
        if repeated.size:
            raise ArtifactError(f"sample {ids[order][repeated[0]]} was predicted more than once.")
        return Predictions(
            ids,
            np.concatenate([part.splits for part in parts]),
            np.concatenate([part.targets for part in parts]),
            {
                task: np.concatenate([part.probabilities[task] for part in parts])
                for task in parts[0].tasks
            },
        ).at(order)

    def save(self, path: Path) -> None:
        """Write them to a file at once."""
        arrays: dict[str, Any] = {"ids": self.ids, "splits": self.splits, "targets": self.targets}
        arrays |= {_OF_TASK + task: values for task, values in self.probabilities.items()}
        with replacing(path) as temporary, temporary.open("wb") as handle:
            np.savez_compressed(handle, **arrays)

    @staticmethod
    def load(path: Path, remedy: str) -> Predictions:
        """Read a file.

        Args:
            path: The file.
            remedy: What to do where it cannot be read, for the message.

        Raises:
            ArtifactError: If it is missing, damaged or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            probabilities = {
                name.removeprefix(_OF_TASK): values
                for name, values in arrays.items()
                if name.startswith(_OF_TASK)
            }
            found = Predictions(arrays["ids"], arrays["splits"], arrays["targets"], probabilities)
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing: {remedy}.") from None
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"{path} cannot be read ({type(error).__name__}): {remedy}."
            ) from None
        if (wrong := found._misfit()) is not None:
            raise ArtifactError(f"{path} is damaged, {wrong}: {remedy}.")
        return found

    def _misfit(self) -> str | None:
        """Say what does not fit together."""
        n = len(self.ids) if self.ids.ndim == 1 else -1
        if self.ids.dtype.kind not in "iU" or n < 0:
            return f"ids are {self.ids.dtype} of shape {self.ids.shape}"
        if not self.probabilities or self.targets.shape != (n, len(self.tasks)):
            return f"targets are of shape {self.targets.shape}"
        if self.splits.shape != (n,) or not np.isin(self.splits, range(len(SPLITS))).all():
            return f"splits are not {n} numbers below {len(SPLITS)}"
        for task, values in self.probabilities.items():
            if values.dtype.kind != "f" or values.ndim != 2 or len(values) != n:
                return f"the probabilities of {task} are {values.dtype} of shape {values.shape}"
            if self.target(task).max(initial=-1) >= values.shape[1]:
                return f"a target of {task} is beyond its {values.shape[1]} classes"
        return None


def average(parts: Sequence[Predictions]) -> Predictions:
    """Return the mean of what several networks say of the same samples.

    Raises:
        ArtifactError: If they are of different samples or tasks.
    """
    first = parts[0]
    for part in parts:
        if part.tasks != first.tasks or not np.array_equal(part.ids, first.ids):
            raise ArtifactError(
                "the seeds were asked about different images or tasks, so they cannot answer "
                "together: train the arm again with the same limits."
            )
    of_task = {task: [part.probabilities[task] for part in parts] for task in first.tasks}
    mean = {
        task: np.asarray(np.mean(values, axis=0, dtype=np.float64), dtype=np.float32)
        for task, values in of_task.items()
    }
    return replace(first, probabilities=mean)
