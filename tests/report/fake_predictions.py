"""What networks might say of test images, without the networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.artifacts.files import write_json
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.report.section import View


def guesses(targets, n_classes: int, seed: int, skill: float = 2.0, sharpness: float = 1.0):
    """Probabilities that favour the class, and somewhat the one after it."""
    rng = np.random.default_rng([seed, len(targets)])
    logits = rng.normal(size=(len(targets), n_classes))
    rows = np.arange(len(targets))
    logits[rows, targets] += skill
    logits[rows, (targets + 1) % n_classes] += skill / 3
    raised = np.exp(sharpness * logits)
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


def predictions(targets, n_val: int, probabilities, ids=None) -> Predictions:
    """Of validation images, which come first, and test images."""
    n = len(targets)
    return Predictions(
        ids=np.arange(n) if ids is None else ids,
        splits=np.where(np.arange(n) < n_val, 1, 2).astype(np.int8),
        targets=np.asarray(targets, np.int64)[:, None],
        probabilities={"principal": np.asarray(probabilities, np.float32)},
    )


def keep(run_dir: Path, arm: str, seed: int, said: Predictions, names: Sequence[str]) -> None:
    """Finish a training that keeps its predictions, and what it kept before."""
    stage = StageFolder(run_dir, f"multitask/{arm}/seed{seed}")
    stage.begin({}, {}, {})
    said.save(stage.path / "predictions.npz")
    card = {"format": 1, "principal": "animal", "tasks": {"principal": list(names)}}
    write_json(stage.path / "classifier.json", card)
    if not (stage.path / "test.json").is_file():
        test = said.of("test")
        right = test.probabilities["principal"].argmax(axis=1) == test.target("principal")
        write_json(stage.path / "test.json", {"test/accuracy/principal": float(right.mean())})
    stage.finish(list(stage.path.iterdir()), 1.0)


def view_of(
    run_dir: Path,
    names: Sequence[str],
    n_test: int,
    arms: Mapping[str, tuple[float, int]],
    side: int = 16,
    baseline: str | None = "single_task",
) -> View:
    """A run of nothing but predictions.

    Args:
        run_dir: Its folder, to be filled.
        names: Names of the classes.
        n_test: Test images; there are half as many validation images.
        arms: Skill of each arm and its number of seeds.
        side: Side of an image.
        baseline: The arm to compare with.
    """
    n, k = n_test // 2 + n_test, len(names)
    targets = np.random.default_rng(7).integers(0, k, n)
    for arm, (skill, seeds) in arms.items():
        for seed in range(seeds):
            said = guesses(targets, k, seed, skill, sharpness=2.0)
            keep(run_dir, arm, seed, predictions(targets, n_test // 2, said), names)
    codes = Codes(
        np.zeros((n, 1, 1), np.float32),
        np.arange(n),
        np.where(np.arange(n) < n_test // 2, 1, 2).astype(np.int8),
        targets[:, None],
        FactorInfo(("animal",), (k,), "animal"),
    )

    def images(rows):
        rng = np.random.default_rng(0)
        wide = rng.random((len(rows), 3, 4, 4))
        return torch.from_numpy(
            np.kron(wide, np.ones((1, 1, side // 4, side // 4))).astype(np.float32)
        )

    return View(
        run_dir, list(arms), baseline, range(max(n for _, n in arms.values())), codes, [], images,
        None, [],
    )  # fmt: skip
