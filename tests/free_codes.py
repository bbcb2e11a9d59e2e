"""`python -m tests.free_codes [FOLDER]`: what is left of the principal task in free codes.

Frozen features are split by 20 labels a class, the other training images joining in without one,
and probes ask the free codes for the principal task: of images that the split has not seen. Made-up
features of 1,280 dimensions and, of the photographs in the folder of `make photos`, those of
`cmu_faces`, which are kept below `runs/photos`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.evaluation.probes import linear_probe
from detaux_pl.models.feature_split import split_features
from tests.models.weights_here import real_weights
from tests.photos import _load

PER_CLASS, SPLITS, DIMENSIONS = 20, 5, 1280
COLUMNS = ("chance", "features", "principal codes", "free codes", "free codes, all labels",
           "free codes, anew")  # fmt: skip


def main() -> None:
    """Print a table: accuracies of probes, means over splits ± standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    args = parser.parse_args()
    print(f"| features | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name, features, labels in (*_made_up(), *_photographs(args.folder)):
        rows = np.array([measure(features, labels, split) for split in range(SPLITS)])
        errors = rows.std(axis=0, ddof=1) / np.sqrt(SPLITS)
        told = [f"{100 * m:.1f} ± {100 * e:.1f}" for m, e in zip(rows.mean(0), errors, strict=True)]
        print(f"| {name} | {' | '.join(told)} |", flush=True)


def measure(features: NDArray[Any], labels: NDArray[np.int64], seed: int) -> list[float]:
    """Return the accuracies of one split, in the order of the columns.

    The test images are a third. Probes are fitted to the labelled training images, to all of them
    with their true labels, or anew to one half of the test images; they are asked of the test
    images, the last of the other half.
    """
    order = np.random.default_rng([seed, 19]).permutation(len(labels))
    test, train = order[: len(order) // 3], order[len(order) // 3 :]
    n_classes = labels.max() + 1
    known = np.concatenate([train[labels[train] == c][:PER_CLASS] for c in range(n_classes)])
    given = np.where(np.isin(train, known), labels[train], -1)
    split = split_features(features.astype(np.float32), train, given, n_classes, 200, 50)
    codes = np.einsum("nf,kcf->knc", features - split.mean, split.analysis)
    half = len(test) // 2

    def told(x: NDArray[Any], seen: NDArray[np.int64], asked: NDArray[np.int64] = test) -> float:
        return linear_probe(x[seen], labels[seen], x[asked], labels[asked])

    return [
        np.bincount(labels[test]).max() / len(test),
        told(features, known), told(codes[0], known), told(codes[1], known),
        told(codes[1], train), told(codes[1], test[:half], test[half:]),
    ]  # fmt: skip


def _made_up() -> Iterator[tuple[str, NDArray[Any], NDArray[np.int64]]]:
    """Features in which a class and a group of 20 shift the mean, with a falling spectrum."""
    for n, n_classes in ((600, 4), (3000, 4), (3000, 20)):
        rng = np.random.default_rng(n_classes)
        labels, groups = rng.integers(n_classes, size=n), rng.integers(20, size=n)
        scale = np.geomspace(3, 0.1, DIMENSIONS)
        x = rng.normal(size=(n, DIMENSIONS)) + 1.5 * rng.normal(size=(20, DIMENSIONS))[groups]
        x = (x + rng.normal(size=(n_classes, DIMENSIONS))[labels]) * scale
        yield f"made up, {n:,} of {n_classes} classes", x, labels


def _photographs(folder: Path | None) -> Iterator[tuple[str, NDArray[Any], NDArray[np.int64]]]:
    if folder is not None:
        features, columns = _load(folder / "cmu_faces", Path("runs/photos"), real_weights())
        for name in ("pose", "eyes", "expression", "person"):
            labels = np.unique(columns[name], return_inverse=True)[1]
            yield f"`cmu_faces`: {name}", features, labels


if __name__ == "__main__":
    main()
