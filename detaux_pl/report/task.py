"""What a discovered task is, in numbers: what its sections show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels, labels_folder, load_tasks
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.metrics.agreement import agreement
from detaux_pl.report.section import Report
from detaux_pl.report.wording import short_name
from detaux_pl.settings.names import arm_folder, discovery_folder

SHEET_ROWS = 24
"""Classes that the sheet of images shows at most."""


def describe_task(codes: Codes, labels: AuxiliaryLabels) -> dict[str, Any]:
    """What the discovered task is, and what it has in common with the known factors (train)."""
    train = codes.rows("train")
    given = train[labels.labels[train] != IGNORED]
    found = labels.labels[given]
    principal = codes.info.principal
    factors = {name: agreement(codes.factor(name)[given], found) for name in codes.info.names}
    hidden = [name for name in codes.info.names if name != principal]
    best = max(hidden, key=lambda name: factors[name]["nmi"], default=None)
    noise_class = labels.meta.get("noise_class")
    clusters = []
    for label, name in enumerate(labels.class_names):
        members = given[found == label]
        cluster = {
            "label": label,
            "name": name,
            "size": len(members),
            "share": len(members) / len(train),
        }
        if best is not None and len(members):
            counts = np.bincount(codes.factor(best)[members])
            value = int(counts.argmax())
            cluster["leading"] = {
                "factor": best,
                "value": value,
                "name": codes.info.names_of(best)[value],
                "share": float(counts.max() / len(members)),
            }
        clusters.append(cluster)
    return {
        **labels.meta,
        "n_clusters": labels.n_classes - (noise_class is not None),
        "n_classes": labels.n_classes,
        "noise_fraction": float(labels.is_noise[train].mean()),
        "noise_fractions": codes.share_by_split(labels.is_noise),
        "nmi_principal": factors[principal]["nmi"],
        "best_factor": best,
        "factors": factors,
        "clusters": clusters,
    }


def described(report: Report) -> list[Mapping[str, Any]]:
    """What is known of each discovered task, the best one first."""
    return [report["auxiliary"], *report["further_tasks"]]


def leading_text(leading: Mapping[str, Any], length: int) -> str:
    """Say which value most images of a cluster have, its name in so many letters."""
    name = leading.get("name", str(leading["value"]))  # of earlier versions it is a number
    return f"{leading['factor']} {short_name(name, length)}"


def task_suffix(number: int) -> str:
    """Return what the names of the charts of a task end with: nothing for the first one."""
    return "" if number == 1 else str(number)


def is_noise(cluster: Mapping[str, Any]) -> bool:
    """Whether a row belongs last."""
    return bool(cluster["name"] == "noise")


def read_tasks(
    run_dir: Path, codes: Codes, arm: str, discovery: str | None = None
) -> list[AuxiliaryLabels]:
    """Read the labels of a discovery: those that its arm learned, if it learned any."""
    trained = [
        StageFolder(run_dir, path.relative_to(run_dir).as_posix()).manifest
        for path in sorted((run_dir / arm_folder(arm)).glob("seed*"))
    ]
    learned = [name for manifest in trained if manifest for name in sorted(manifest["upstream"])]
    root = run_dir / discovery_folder("", discovery)
    folder = run_dir / learned[0] if learned else labels_folder(root)
    tasks = load_tasks(folder)
    if not np.array_equal(codes.ids, tasks[0].ids):
        raise ArtifactError(
            f"{folder} labels other samples than there are codes of: cluster again."
        )
    return tasks
