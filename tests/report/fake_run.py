"""A run folder as the stages leave it, without the training."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.files import write_json
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.data.noise import SaltPepper

ACCURACIES = {
    "hard_parameter_sharing": {0: 0.262, 1: 0.281, 2: 0.259, 3: 0.270, 4: 0.268},
    "single_task": {0: 0.213, 1: 0.230, 2: 0.198, 3: 0.221, 4: 0.205},
    "shuffled": {0: 0.192, 1: 0.205, 2: 0.201, 3: 0.188, 4: 0.197},
    "location": {0: 0.348, 1: 0.351, 2: 0.339, 3: 0.350, 4: 0.344},
}
ARMS = list(ACCURACIES)
SEEDS = [0, 1, 2, 3, 4]


def images_of(n_train=300):
    data = LabelledDataModule(
        DigitScenes(n_train=n_train, n_val=60, n_test=60, n_locations=4), noise=SaltPepper(0.05)
    )
    data.setup("fit")
    return data


def write_run(folder: Path, data: LabelledDataModule, accuracies=ACCURACIES) -> None:
    """Write all stages but the report: the labels are the location, with errors and noise."""
    dataset, rng = data.dataset, np.random.default_rng(0)
    location = dataset.factor("location")
    n = len(location)
    centres = rng.normal(size=(3, 10, 2)) * 4
    columns = [dataset.factor(name) for name in ("digit", "location", "background")]
    values = np.stack([centres[k, column] for k, column in enumerate(columns)], axis=1)
    values = (values + rng.normal(size=values.shape)).astype(np.float32)
    codes = Codes(values, dataset.ids, dataset.splits, dataset.factors, dataset.info)
    wrong = rng.random(n) < 0.05
    noise = rng.random(n) < 0.1
    clusters = np.where(wrong, rng.integers(0, 4, n), location)
    labels = AuxiliaryLabels(
        ids=dataset.ids,
        splits=dataset.splits,
        labels=np.where(noise, 0, clusters + 1),
        is_noise=noise,
        strength=np.where(noise, 0, rng.random(n)).astype(np.float32),
        n_classes=5,
        meta={
            "subspace": 1,
            "principal_subspace": 0,
            "rule": "ratio",
            "scores": [
                {"subspace": k, "share": 0.5 * (k > 0), "distance": 3.25 * k,
                 "ratio": 0.125 * k if k else None, "candidate": k > 0}
                for k in range(3)
            ],
            "clusterer": {"class": "HDBSCAN", "min_cluster_size": 0.02, "min_samples": None},
            "noise": "own_class",
            "noise_class": 0,
        },
    )  # fmt: skip
    stage(folder, "disentangle", 40.0, lambda path: write_metrics(path, disentangle_rows()))
    stage(folder, "disentangle/codes", 1.5, codes.save)
    stage(folder, "cluster", 0.75, labels.save)
    for arm, runs in accuracies.items():
        for seed, accuracy in runs.items():
            name = f"multitask/{arm}/seed{seed}"
            stage(folder, name, 2.0, lambda path, a=accuracy, s=seed: write_test(path, a, s))
    (folder / "config.yaml").write_text("run_dir: runs/<fake> & co\nseeds: 5\n", encoding="utf-8")


def stage(folder: Path, name: str, seconds: float, write) -> None:
    made = StageFolder(folder, name)
    made.begin({}, {}, {})
    write(made.path)
    made.finish([], seconds)


def write_evaluation(folder: Path, probes, metrics=None) -> None:
    def write(path: Path) -> None:
        write_json(path / "probes.json", probes)
        if metrics is not None:
            write_json(path / "metrics.json", metrics)

    stage(folder, "evaluate", 1.25, write)


def probes_of(slices: int):
    """Probes of digit and location: chance, but slice 1 for digits and the last for places."""
    tasks = ("digit", "location")
    parts = [dict.fromkeys(tasks, 0.1 + 1e-5 * k) for k in range(slices)]
    parts[1]["digit"], parts[-1]["location"] = 0.8, 0.7
    full, chance = dict.fromkeys(tasks, 0.9), dict.fromkeys(tasks, 0.1)
    return {
        "tasks": list(tasks), "chance": chance, "n_train": 1234, "n_test": 56,
        "inputs": {"z": {"full": full, "slices": parts}},
    }  # fmt: skip


def metrics_of(k: int, d: int, information, importances):
    """Scores of digit and location, with some left out."""
    return {
        "shape": [k, d],
        "split": "test",
        "n_samples": 1060,
        "factors": ["digit", "location"],
        "scores": {
            "dim": {"mig": 0.125, "factor_vae": 0.875, "gaussian_total_correlation": 3.14159},
            "subspace": {"factor_vae": 0.75} if d > 1 else {},
        },
        "matrices": {
            name: np.asarray(matrix).tolist()
            for name, matrix in (("mutual_information", information), ("importances", importances))
            if matrix is not None
        },
        "left_out": {"irs": "it is <slow>"},
        "seconds": {"mig": 0.5},
    }


def write_test(path: Path, accuracy: float, seed: int) -> None:
    write_json(
        path / "test.json",
        {
            "test/accuracy/principal": accuracy,
            "test/f1/principal": accuracy - 0.01,
            "test/accuracy/auxiliary": 0.9,
            "test/loss/principal": 2.0,
        },
    )
    rows = []
    for epoch in range(12):
        reached = accuracy * (1 - np.exp(-(epoch + 1) / 4)) + 0.004 * np.sin(seed + epoch)
        rows.append({"epoch": epoch, "step": 9 * epoch, "train/loss": 3.0 - 0.1 * epoch})
        rows.append({"epoch": epoch, "step": 9 * epoch, "val/accuracy/principal": reached})
    write_metrics(path, rows)


def disentangle_rows():
    rows = []
    for epoch in range(30):
        terms = {
            "reconstruction": 0.06 * np.exp(-epoch / 8) + 0.01,
            "distance": 0.0 if epoch < 8 else 0.2 * np.exp(-(epoch - 8) / 9),
            "consistency": 0.0 if epoch < 8 else 0.01 + 0.02 * np.exp(-(epoch - 8) / 5),
        }
        row = {f"train/{name}": value for name, value in terms.items()}
        rows.append({"epoch": epoch, "step": epoch * 18, "train/loss": sum(terms.values()), **row})
        rows.append({"epoch": epoch, "step": epoch * 18, "val/loss": 1.1 * sum(terms.values())})
    return rows


def write_metrics(path: Path, rows) -> None:
    """As Lightning's CSVLogger writes them: one table with blanks."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (path / "metrics.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)
