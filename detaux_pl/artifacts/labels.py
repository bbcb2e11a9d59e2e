"""Auxiliary labels: the discovered task, one row per sample id."""

from __future__ import annotations

import csv
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_json, replacing, write_json

_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What reading a damaged `.npz` can raise."""

IGNORED = -1
"""Label of a sample that the auxiliary loss leaves out."""


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

    def save(self, folder: Path) -> None:
        """Write `labels.npz`, `labels.json` and, for other frameworks, `labels.csv`."""
        with replacing(folder / "labels.npz") as temporary, temporary.open("wb") as handle:
            np.savez_compressed(
                handle,
                ids=self.ids,
                splits=self.splits,
                labels=self.labels,
                is_noise=self.is_noise,
                strength=self.strength,
            )
        write_json(folder / "labels.json", {"n_classes": self.n_classes, **self.meta})
        self.to_csv(folder / "labels.csv")

    def to_csv(self, path: Path) -> None:
        """Export as CSV with columns id, split, label, is_noise, strength."""
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as handle,
        ):
            writer = csv.writer(handle)
            writer.writerow(["id", "split", "label", "is_noise", "strength"])
            writer.writerows(
                (i, SPLITS[s], label, int(noise), f"{strength:.4f}")
                for i, s, label, noise, strength in zip(
                    self.ids.tolist(),
                    self.splits.tolist(),
                    self.labels.tolist(),
                    self.is_noise.tolist(),
                    self.strength.tolist(),
                    strict=True,
                )
            )

    @staticmethod
    def load(folder: Path) -> AuxiliaryLabels:
        """Read what `save` wrote.

        Raises:
            ArtifactError: If the folder holds no labels or they cannot be read.
        """
        path = folder / "labels.npz"
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: run `detaux cluster` first.")
        meta = read_json(folder / "labels.json")
        try:
            # numpy leaves a file that it opened itself open where it is damaged.
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
                return AuxiliaryLabels(
                    **{name: arrays[name] for name in arrays.files},
                    n_classes=meta.pop("n_classes"),
                    meta=meta,
                )
        except _UNREADABLE as error:
            raise ArtifactError(f"{path} cannot be read ({error}): cluster again.") from None
