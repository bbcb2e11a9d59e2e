"""What a choice of groups to erase says, as tasks and as it is read by others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import UNLABELLED, Codes
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.erasing import Choice, Erasing
from detaux_pl.cluster.erasure_choice import assign_groups, choose_erasure
from detaux_pl.cluster.tried import Verdict, read_of_stage

ERASURES = "erasures.json"
"""What is known of every candidate, and the verdict: a file of the stage."""
FEATURES = "features"
"""What disentanglers call the features of a frozen network, beside their codes."""


class KnownErasure(TypedDict):
    """What is known of a candidate, as far as others read it."""

    name: str
    n_clusters: list[int]
    gain: float
    error: float
    accuracy: float
    ami_principal: float
    stability: float | None
    refused: str | None


class Erasures(TypedDict):
    """The content of the file."""

    verdict: Verdict
    candidates: list[KnownErasure]


def read_erasures(stage: StageFolder) -> Erasures | None:
    """Read what is known of the groups that might be erased; None where none was looked for.

    Raises:
        ArtifactError: If the file was changed or is damaged.
    """
    return read_of_stage(stage, ERASURES, Erasures)


def load_features(folder: Path) -> Codes:
    """Load the features that a disentangler has written beside its codes.

    Raises:
        UserError: If it has not.
    """
    if FEATURES not in Codes.load(folder).others:
        raise UserError(
            f"erase needs features of a frozen network, and {folder} holds none: take the "
            "disentangler PretrainedFeatures, or leave erase out."
        )
    return Codes.load(folder, FEATURES)


def find_erasure(features: Codes, erasing: Erasing) -> tuple[Choice, list[AuxiliaryLabels]]:
    """Choose what to erase, and label all samples with it.

    Args:
        features: Features, one subspace.
        erasing: The settings.

    Returns:
        The choice, and its groupings as tasks, which say whether they are better erased or left.
    """
    rows = np.concatenate([features.rows("train"), features.rows(UNLABELLED)])
    others = np.setdiff1d(np.arange(len(features.ids)), rows)
    info = features.info
    values = features.values[:, 0]
    known = values[rows]
    labels = features.factor(info.principal)[rows]
    n_classes = info.sizes[info.names.index(info.principal)]
    with progress_bar("folds", erasing.n_fits) as advance:
        choice = choose_erasure(known, labels, n_classes, erasing, info.principal, advance)
    groups = np.full((len(values), len(choice.of)), IGNORED)
    groups[rows] = choice.proposed
    if len(others):
        groups[others] = assign_groups(known, labels, n_classes, erasing, choice.of, values[others])
    use = "erase" if choice.verdict["found"] else "leave"
    tasks = []
    for column, k in zip(groups.T, choice.of, strict=True):
        meta = {"use": use, "clusterer": erasing.clusterers[k].settings}
        tasks.append(_task(features, column, erasing, meta))
    return choice, tasks


def _task(
    features: Codes,
    groups: NDArray[np.int64],
    erasing: Erasing,
    meta: dict[str, Any],
) -> AuxiliaryLabels:
    noise = groups == IGNORED
    n_classes = int(groups.max()) + 1
    train = groups[features.rows("train")]
    return AuxiliaryLabels(
        ids=features.ids,
        splits=features.splits,
        labels=groups,
        is_noise=noise,
        strength=np.where(noise, 0, 1).astype(np.float32),
        n_classes=n_classes,
        meta={
            **meta,
            "principal_subspace": features.info.principal_subspace,
            "rule": None,
            "pca": erasing.axes,
            "n_clusters": n_classes,
            "cluster_sizes": np.bincount(train[train >= 0], minlength=n_classes).tolist(),
            "noise": "drop",
            "noise_class": None,
            "noise_fraction": features.share_by_split(noise),
            "seed": erasing.seed,
        },
    )
