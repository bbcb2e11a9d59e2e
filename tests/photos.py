"""`make photos FOLDER=...`: what erasing discovered groups is worth on photographs.

The folder has a folder a set, as in `SETS`: its images, and `labels.csv` with the columns named
there and `image`, the path of each. Features of a frozen net and the accuracies of every split are
kept below `runs/photos`; a second call goes on where the first ended.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import normalized_mutual_info_score
from sklearn.semi_supervised import LabelSpreading

from detaux_pl.artifacts.files import read_json, write_json
from detaux_pl.cluster.erasing import Erasing
from detaux_pl.cluster.erasure_choice import choose_erasure
from detaux_pl.models.erased_probe import fit_erased_probe
from detaux_pl.models.linear_probe import fit_linear_probe
from detaux_pl.models.principal_axes import principal_axes

SIZE = 224
METHODS = {
    "knn": "kNN",
    "spread": "label propagation",
    "self": "self-training",
    "chosen": "discovered erased, by the verdict",
    "always": "the same without a verdict",
    "true": "true factor erased",
    "random": "random groups erased",
}


class Task(NamedTuple):
    """A principal factor of a set, the hidden one, and the column that test images are cut off by.

    Args:
        set: Folder of the set.
        principal: Its column.
        hidden: What is erased as the true factor; None where the set has none.
        by: Column of which values are held out: some at random, or a block of neighbours where
            they are numbers; None for single images. `split` is told by the set.
    """

    set: str
    principal: str
    hidden: str | None
    by: str | None = None

    @property
    def name(self) -> str:
        return f"{self.set}: {self.principal}" + (f" (by {self.by})" if self.by else "")


SETS = [
    Task("cmu_faces", "pose", "person"),
    Task("cmu_faces", "eyes", "person"),
    Task("cmu_faces", "expression", "person"),
    Task("cmu_faces", "person", "pose"),
    Task("clothing", "label", "sender_id"),
    Task("clothing", "label", "sender_id", by="sender_id"),
    Task("sign_digits", "digit", "student_inferred", by="student_inferred"),
    Task("coil50", "object", "angle_deg", by="angle_deg"),
    Task("cifar10", "class", None, by="split"),
]


def main() -> None:
    """Measure every task, and print a table for each number of labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, help="of tf_efficientnet_lite0, its state dict")
    parser.add_argument("--sets", nargs="*", help="only these folders")
    parser.add_argument("--per_class", type=int, nargs="*", default=[5, 20])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/photos"))
    args = parser.parse_args()
    for per_class in args.per_class:
        print(f"\n{per_class} labels a class\n\n{_header()}")
        for task in SETS:
            if args.sets and task.set not in args.sets:
                continue
            if not (args.folder / task.set / "labels.csv").is_file():
                print(f"| {task.name} | skipped: no {args.folder / task.set / 'labels.csv'} |")
                continue
            rows = [_measured(task, per_class, split, args) for split in range(args.splits)]
            print(_line(task, rows), flush=True)


def _measured(task: Task, per_class: int, split: int, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracies of one split, from the disk where they are there."""
    by = f"-by-{task.by}" if task.by else ""
    name = f"{task.set}-{task.principal}{by}-{per_class}-{split}.json"
    path = args.run_dir / name
    if not path.exists():
        features, columns = _load(args.folder / task.set, args.run_dir, args.weights)
        write_json(path, _measure(task, features, columns, per_class, split))
    found: dict[str, Any] = read_json(path)
    return found


def _measure(
    task: Task, features: NDArray[Any], columns: dict[str, NDArray[Any]], per_class: int, split: int
) -> dict[str, Any]:
    rng = np.random.default_rng([split, 18])
    names, principal = np.unique(columns[task.principal], return_inverse=True)
    test = _held_out(task, columns, rng)
    train = np.flatnonzero(~test)
    order = rng.permutation(train)
    labelled = np.concatenate([order[principal[order] == c][:per_class] for c in range(len(names))])
    labels = np.where(np.isin(train, labelled), principal[train], -1)
    # Classes without a training image cannot be told by anyone.
    test &= np.isin(principal, principal[labelled])
    mean, axes = principal_axes(features[train], 200)
    x, asked, truth = (
        (features[train] - mean) @ axes,
        (features[test] - mean) @ axes,
        principal[test],
    )

    def erased(groups: NDArray[np.int64]) -> float:
        probe = fit_erased_probe(x, labels, len(names), groups)
        return float((probe.logits(asked).argmax(axis=1) == truth).mean())

    erasing = Erasing()
    choice = choose_erasure(x, labels, len(names), erasing, task.principal)
    plain = fit_erased_probe(x, labels, len(names), choice.groups[:, :0])
    known = labels >= 0
    guessed = np.where(known, labels, plain.logits(x).argmax(axis=1))
    again = fit_linear_probe(x, guessed, len(names))
    unit, unit_asked = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, asked))
    shuffled = choice.proposed[rng.permutation(len(x))]
    found = {
        "probe": float((plain.logits(asked).argmax(axis=1) == truth).mean()),
        "knn": float((_nearest(unit[known], labels[known], unit_asked) == truth).mean()),
        "spread": float((_spread(unit, labels, unit_asked) == truth).mean()),
        "self": float((again.logits(asked).argmax(axis=1) == truth).mean()),
        "chosen": erased(choice.groups),
        "always": erased(choice.proposed),
        "random": erased(shuffled),
        "found": choice.verdict["found"],
        "record": choice.record(),
    }
    if task.hidden:
        hidden = np.unique(columns[task.hidden], return_inverse=True)[1][train]
        found["true"] = erased(hidden[:, None])
        found["nmi_hidden"] = _nmi(choice.proposed, hidden)
    found["nmi_principal"] = _nmi(choice.proposed, principal[train])
    return found


def _nmi(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    return float(np.mean([normalized_mutual_info_score(labels, g) for g in groups.T]))


def _held_out(
    task: Task, columns: dict[str, NDArray[Any]], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Tell which images are for the test: about a third."""
    n = len(columns["image"])
    if task.by == "split":
        return np.asarray(columns["split"] == "test")
    if task.by is None:
        return np.asarray(rng.permutation(n) < n // 3)
    values = np.unique(columns[task.by])
    if task.by == "angle_deg":
        values = values[np.argsort(values.astype(int))]
        values = np.roll(values, rng.integers(len(values)))
    else:
        values = rng.permutation(values)
    return np.isin(columns[task.by], values[: len(values) // 3])


def _nearest(
    known: NDArray[Any], labels: NDArray[np.int64], asked: NDArray[Any]
) -> NDArray[np.int64]:
    """Vote of the k nearest, weighted by cosine; k by leaving one labelled image out."""

    def vote(near: NDArray[Any], k: int) -> NDArray[np.int64]:
        best = np.argsort(-near, axis=1)[:, :k]
        weights = np.exp(10 * np.take_along_axis(near, best, axis=1))
        votes = np.stack([(weights * (labels[best] == c)).sum(1) for c in range(labels.max() + 1)])
        return np.asarray(votes.argmax(axis=0))

    inner = known @ known.T
    np.fill_diagonal(inner, -np.inf)
    scores = {k: (vote(inner, k) == labels).mean() for k in (1, 3, 5, 10)}
    return vote(asked @ known.T, max(scores, key=lambda k: scores[k]))


def _spread(x: NDArray[Any], labels: NDArray[np.int64], asked: NDArray[Any]) -> NDArray[np.int64]:
    """Spread the labels over a graph of neighbours; the nearest to a test image tell its class."""
    model = LabelSpreading(kernel="knn", n_neighbors=10, alpha=0.8, max_iter=100, tol=1e-4)
    with np.errstate(invalid="ignore"):
        model.fit(x, labels)
    shares = np.nan_to_num(model.label_distributions_)
    best = np.argsort(-(asked @ x.T), axis=1)[:, :10]
    return np.asarray(model.classes_[shares[best].sum(axis=1).argmax(axis=1)])


@cache
def _load(
    folder: Path, run_dir: Path, weights: Path | None
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Features and columns of a set, computed once."""
    path = run_dir / f"{folder.name}.npz"
    if not path.exists():
        with (folder / "labels.csv").open() as file:
            rows = list(csv.DictReader(file))
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        features = np.concatenate(list(_compute(folder, columns["image"], weights)))
        run_dir.mkdir(parents=True, exist_ok=True)
        np.savez(path.with_suffix(".part.npz"), features=features, **columns)
        path.with_suffix(".part.npz").replace(path)
    with np.load(path) as arrays:
        return arrays["features"].astype(np.float64), {n: arrays[n] for n in arrays.files}


def _compute(folder: Path, images: NDArray[Any], weights: Path | None) -> Iterator[NDArray[Any]]:
    import torch
    from PIL import Image

    from detaux_pl.models.pretrained import PretrainedNet

    net = PretrainedNet("timm/tf_efficientnet_lite0", (3, SIZE, SIZE), weights=weights, size=SIZE)
    for start in range(0, len(images), 16):
        # Sizes vary within a set, so each is resized by itself.
        pixels = [
            np.asarray(
                Image.open(folder / name)
                .convert("RGB")
                .resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            )
            for name in images[start : start + 16]
        ]
        yield net(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255).numpy()


def _header() -> str:
    names = ["principal", "probe", *METHODS.values(), "erased", "NMI hidden / principal"]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def _line(task: Task, rows: list[dict[str, Any]]) -> str:
    def told(values: list[float], form: str) -> str:
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        return f"{100 * np.mean(values):{form}} ± {100 * error:.1f}"

    cells = [task.name, told([row["probe"] for row in rows], ".1f")]
    for method in METHODS:
        known = [row for row in rows if method in row]
        gains = [row[method] - row["probe"] for row in known]
        cells.append(told(gains, "+.1f") if known else "")
    cells.append(f"{sum(row['found'] for row in rows)} of {len(rows)}")
    hidden = [row["nmi_hidden"] for row in rows if "nmi_hidden" in row]
    shown = f"{np.mean(hidden):.2f}" if hidden else "-"
    cells.append(f"{shown} / {np.mean([row['nmi_principal'] for row in rows]):.2f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
