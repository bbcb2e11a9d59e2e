"""What the networks of all seeds of an arm say together of the images of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.predictions import Predictions, average
from detaux_pl.artifacts.stage import StageFolder, redo_name
from detaux_pl.metrics.calibration import fit_temperature, mean_gap, reliability, scale
from detaux_pl.settings.names import arm_folder


class _Named(TypedDict):
    """The content of `classifier.json`, as far as classes are named by it."""

    principal: str
    tasks: dict[str, list[str]]


@dataclass(frozen=True)
class Sureness:
    """How far probabilities are from how often they are right.

    Args:
        bins: Mean probability, accuracy and number of images of each bin that has any.
    """

    bins: list[tuple[float, float, int]]

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]."""
        return mean_gap(self.bins)


@dataclass(frozen=True)
class Together:
    """What S networks say together of N labelled images, in the order of their ids.

    The class is that of the mean of their probabilities; how probable it is, is told at the
    temperature at which the validation labels are the likeliest, as a classifier tells it.

    Args:
        principal: Name of the principal factor.
        seeds: Seed of each network.
        classes: Names of the C classes of the principal task.
        temperature: What the logarithms of the mean probabilities are divided by.
        ids: Ids of the images, shape (N,).
        targets: Their classes by label, int64, shape (N,).
        predicted: Their classes by the networks, int64, shape (N,).
        probability: Of the predicted class, shape (N,).
        of_label: Of the class by label, shape (N,).
        votes: The class by each network, int64, shape (S, N).
        before: How sure the networks are without the temperature.
        after: How sure they are with it.
    """

    principal: str
    seeds: tuple[int, ...]
    classes: tuple[str, ...]
    temperature: float
    ids: NDArray[np.int64] | NDArray[np.str_]
    targets: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    of_label: NDArray[np.float64]
    votes: NDArray[np.int64]
    before: Sureness
    after: Sureness

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each image is told right, shape (N,)."""
        right: NDArray[np.bool_] = self.predicted == self.targets
        return right

    @property
    def accuracy(self) -> float:
        """Share of the images that are told right."""
        return float(self.right.mean())


def fit_temperatures(parts: Sequence[Predictions]) -> dict[str, float]:
    """Find the temperature of each task at which the validation labels are the likeliest.

    Args:
        parts: What each network says; their probabilities are averaged.

    Raises:
        ArtifactError: If they are of different samples or tasks.
    """
    held_out = average([part.of("val") for part in parts])
    return {
        task: fit_temperature(values, held_out.target(task))
        for task, values in held_out.probabilities.items()
    }


def put_together(
    parts: Mapping[int, Predictions], principal: str, classes: Sequence[str], split: str = "test"
) -> Together | None:
    """Let networks answer together about the principal task.

    Args:
        parts: What the network of each seed says.
        principal: Name of the principal factor.
        classes: Names of its classes.
        split: `test` or `val`.

    Returns:
        What they say; None where no image of the split has a label.

    Raises:
        ArtifactError: If they are of different samples.
    """
    task = next(iter(parts.values())).tasks[0]
    own = [part.only(task) for part in parts.values()]
    temperature = fit_temperatures(own)[task]
    own = [part.of(split) for part in own]
    mean = average(own)
    known = np.flatnonzero(mean.target(task) >= 0)
    if not known.size:
        return None
    mean = mean.at(known)
    targets, raw = mean.target(task), mean.probabilities[task]
    calibrated, predicted = scale(raw, temperature), raw.argmax(axis=1)
    rows = np.arange(len(targets))
    return Together(
        principal=principal,
        seeds=tuple(parts),
        classes=tuple(classes),
        temperature=temperature,
        ids=mean.ids,
        targets=targets,
        predicted=predicted,
        probability=calibrated[rows, predicted],
        of_label=calibrated[rows, targets],
        votes=np.stack([part.probabilities[task].argmax(axis=1)[known] for part in own]),
        before=Sureness(reliability(raw, targets)),
        after=Sureness(reliability(calibrated, targets)),
    )


def read_together(
    run_dir: Path, arm: str, seeds: Sequence[int], split: str = "test"
) -> Together | None:
    """Read what finished trainings of an arm say together.

    Args:
        run_dir: Folder of the run.
        arm: Name of the arm.
        seeds: Which of its seeds; those without predictions, as earlier versions left them, and
            those that did not finish are left out.
        split: `test` or `val`.

    Returns:
        What they say; None where there is no prediction of a labelled image of the split.

    Raises:
        ArtifactError: If a file was changed or is damaged, or the seeds do not fit together.
    """
    parts: dict[int, Predictions] = {}
    named: _Named | None = None
    for seed in seeds:
        stage = StageFolder(run_dir, f"{arm_folder(arm)}/seed{seed}")
        if not _has_predictions(stage):
            continue
        own = stage.read("classifier.json", _Named)
        remedy = f"--redo {redo_name(stage.name)} makes it again"
        part = Predictions.load(stage.output("predictions.npz"), remedy)
        if len(_classes(own)) != next(iter(part.probabilities.values())).shape[1]:
            raise ArtifactError(
                f"{stage.path / 'classifier.json'} names other classes than predictions.npz has: "
                f"{remedy}."
            )
        if named is not None and _classes(named) != _classes(own):
            raise ArtifactError(
                f"the seeds of {arm!r} learnt different classes, so they cannot answer together: "
                "give one seed."
            )
        parts[seed], named = part, own
    if named is None:
        return None
    return put_together(parts, named["principal"], _classes(named), split)


def _classes(named: _Named) -> list[str]:
    """Return the names of the classes of the principal task, which comes first."""
    return next(iter(named["tasks"].values()), [])


def _has_predictions(stage: StageFolder) -> bool:
    manifest = stage.manifest
    return (
        manifest is not None
        and manifest["status"] == "complete"
        and {"predictions.npz", "classifier.json"} <= manifest["outputs"].keys()
    )
