"""Auxiliary labels: the discovered task, one row per sample id."""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_kind, replacing, write_json
from detaux_pl.artifacts.stage import StageFolder

_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What reading a damaged `.npz` can raise."""

IGNORED = -1
"""Label of a sample that the auxiliary loss leaves out."""

_ROWS = 1 << 16
"""Rows of the table that are made text at a time."""


class _Info(TypedDict):
    """What is read of the `.json` of a task."""

    n_tasks: NotRequired[int]
    n_classes: int
    n_clusters: NotRequired[int]
    subspace: NotRequired[int]
    noise: NotRequired[str]
    noise_class: NotRequired[int | None]
    noise_fraction: NotRequired[dict[str, float]]
    clusterer: NotRequired[dict[str, Any]]
    scores: NotRequired[list[dict[str, Any]]]
    refinement: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class AuxiliaryLabels:
    """The label of every sample in one discovered task.

    Args:
        ids: Unique sample ids, shape (N,), ascending.
        splits: Index into `SPLITS`, int8, shape (N,).
        labels: Class of each sample after the noise policy, int64, shape (N,), in
            [0, n_classes) or `IGNORED`.
        is_noise: Whether the clusterer called the sample noise, shape (N,).
        strength: Membership strength in [0, 1], float32, shape (N,).
        n_classes: Number of classes of the task, noise included where it is a class.
        meta: Provenance: subspace, scores of every subspace, clusterer and its settings, cluster
            sizes, noise policy.
    """

    ids: NDArray[np.int64] | NDArray[np.str_]
    splits: NDArray[np.int8]
    labels: NDArray[np.int64]
    is_noise: NDArray[np.bool_]
    strength: NDArray[np.float32]
    n_classes: int
    meta: dict[str, Any] = field(default_factory=dict)

    def of(self, ids: NDArray[np.generic]) -> NDArray[np.int64]:
        """Return the label of each of `ids`, joined by id and never by position.

        Raises:
            ArtifactError: If an id has no label.
        """
        position = np.searchsorted(self.ids, ids)
        found = position < len(self.ids)
        found[found] = self.ids[position[found]] == ids[found]
        if not found.all():
            missing = np.asarray(ids)[~found]
            raise ArtifactError(
                f"the auxiliary labels miss {missing.size} of {len(ids)} sample ids "
                f"(first: {missing[0]}): cluster again on codes of this data set."
            )
        return self.labels[position]

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called: `cluster 0` and so on, or `noise`."""
        noise = self.meta.get("noise_class")
        return tuple("noise" if k == noise else f"cluster {k}" for k in range(self.n_classes))

    def without_noise(self) -> AuxiliaryLabels:
        """Return the clusters alone: samples that were noise are `IGNORED`, and no class."""
        shift = 0 if self.meta.get("noise_class") is None else 1
        labels = np.where(self.is_noise, IGNORED, self.labels - shift)
        return replace(self, labels=labels, n_classes=self.n_classes - shift)

    def save(self, folder: Path | str) -> None:
        """Write the labels as the only task of a folder, see `save_tasks`."""
        save_tasks([self], folder)

    def to_csv(self, path: Path | str) -> None:
        """Export as CSV with columns id, split, label, is_noise, strength."""
        with (
            replacing(Path(path)) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as handle,
        ):
            writer = csv.writer(handle)
            writer.writerow(["id", "split", "label", "is_noise", "strength"])
            columns = self.ids, self.splits, self.labels, self.is_noise, self.strength
            for start in range(0, len(self.ids), _ROWS):
                part = (column[start : start + _ROWS].tolist() for column in columns)
                writer.writerows(
                    (i, SPLITS[s], label, int(noise), f"{strength:.4f}")
                    for i, s, label, noise, strength in zip(*part, strict=True)
                )

    @staticmethod
    def load(folder: Path | str) -> AuxiliaryLabels:
        """Read the first task of a folder.

        Raises:
            ArtifactError: If the folder holds no labels or they cannot be read.
        """
        return _load(Path(folder), _name(0))[0]


def save_tasks(tasks: Sequence[AuxiliaryLabels], folder: Path | str) -> list[Path]:
    """Write the tasks of a folder, each as `.npz`, `.json` and, for other frameworks, `.csv`.

    The first one is called `labels`, the others `labels2`, `labels3` and so on. Those that an
    earlier call left beyond the last one are removed.

    Args:
        tasks: The labels of each task, the first one first.
        folder: Folder of the labels.

    Returns:
        The files.

    Raises:
        ValueError: If there is no task.
    """
    if not tasks:
        raise ValueError("there is no task to save: give the labels of at least one.")
    folder = Path(folder)
    paths = []
    for index, task in enumerate(tasks):
        arrays, meta, table = (folder / f"{_name(index)}.{kind}" for kind in ("npz", "json", "csv"))
        with replacing(arrays) as temporary, temporary.open("wb") as handle:
            np.savez_compressed(
                handle,
                ids=task.ids,
                splits=task.splits,
                labels=task.labels,
                is_noise=task.is_noise,
                strength=task.strength,
            )
        count = {} if index else {"n_tasks": len(tasks)}
        write_json(meta, {**count, "n_classes": task.n_classes, **task.meta})
        task.to_csv(table)
        paths += [arrays, meta, table]
    for path in folder.iterdir():
        if re.fullmatch(r"labels\d+\.(npz|json|csv)", path.name) and path not in paths:
            path.unlink()
    return paths


def labels_folder(root: Path | str) -> Path:
    """Return the folder of the labels of a discovery: the refined ones, where there are such.

    Args:
        root: Folder of the run, or of a further discovery in it.
    """
    refined = StageFolder(root, "refine")
    return refined.path if refined.complete else Path(root) / "cluster"


def load_tasks(folder: Path | str) -> list[AuxiliaryLabels]:
    """Read what `save_tasks` wrote, the first task first.

    Raises:
        ArtifactError: If the folder holds no labels, lacks some or they cannot be read.
    """
    folder = Path(folder)
    first, n_tasks = _load(folder, _name(0))
    return [first, *(_load(folder, _name(index))[0] for index in range(1, n_tasks))]


def _name(index: int) -> str:
    return f"labels{index + 1}" if index else "labels"


def _load(folder: Path, name: str) -> tuple[AuxiliaryLabels, int]:
    """Read one task, and how many there are, which the first one says."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: run `detaux cluster` first.")
    meta: dict[str, Any] = {**read_kind(folder / f"{name}.json", _Info, "cluster again")}
    n_tasks = meta.pop("n_tasks", 1)
    try:
        # numpy leaves a file that it opened itself open where it is damaged.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            labels = AuxiliaryLabels(
                **{array: arrays[array] for array in arrays.files},
                n_classes=meta.pop("n_classes"),
                meta=meta,
            )
    except _UNREADABLE as error:
        raise ArtifactError(f"{path} cannot be read ({error}): cluster again.") from None
    _check(path, labels)
    return labels, n_tasks


_KINDS = {"ids": "iU", "splits": "i", "labels": "i", "is_noise": "b", "strength": "f"}
"""Kinds of numbers of the arrays."""


def _check(path: Path, task: AuxiliaryLabels) -> None:
    """Refuse arrays that are readable and of other things."""
    for name, kinds in _KINDS.items():
        array: NDArray[np.generic] = getattr(task, name)
        if array.dtype.kind not in kinds or array.shape != task.ids.shape[:1]:
            what = f"{array.dtype} of shape {array.shape}"
            raise ArtifactError(f"{path} holds no {name}, but {what}: cluster again.")
    low, high = task.labels.min(initial=0), task.labels.max(initial=0)
    if low < IGNORED or high >= task.n_classes:
        raise ArtifactError(
            f"{path} holds labels from {low} to {high} of {task.n_classes} classes: cluster again."
        )
