"""What a trained network needs beside its weights to be asked about any image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, cast

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_kind, write_json
from detaux_pl.artifacts.labels import load_tasks
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.data.augmentation import Augmentation
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.data.preprocessing import Preprocessing
from detaux_pl.data.value_range import Levels, Range
from detaux_pl.evaluation.together import fit_temperatures
from detaux_pl.settings.build import Spec, build

FORMAT = 1
"""Version of what `Card.as_json` gives."""


class PreprocessingJson(TypedDict):
    """A `Preprocessing` as JSON."""

    shape: list[int]
    fit: Literal["crop", "stretch", "pad"]
    levels: dict[str, Any] | None
    max_pixels: int
    image_size: int | None
    augment: Spec | None


class CardJson(TypedDict):
    """A `Card` as JSON, the content of `classifier.json`."""

    format: int
    principal: str
    tasks: dict[str, list[str]]
    temperatures: dict[str, float]
    preprocessing: PreprocessingJson


@dataclass(frozen=True)
class Card:
    """What the classes are called, what becomes of an image first, and how sure to be.

    Args:
        principal: Name of the principal factor.
        tasks: Names of the classes of each task, the principal one first.
        temperatures: By task, what its logits are divided by.
        preprocessing: From an image to what the network sees.
        augment: What the augmentation in the preprocessing is built from.
    """

    principal: str
    tasks: Mapping[str, tuple[str, ...]]
    temperatures: Mapping[str, float]
    preprocessing: Preprocessing
    augment: Spec | None = None

    @classmethod
    def of(
        cls, data: LabelledDataModule, config: Mapping[str, Any], predictions: Predictions
    ) -> Self:
        """Take it from the data of a training, and from what its network says of them.

        Args:
            data: The data module, set up.
            config: What it was built from, `class_path` and `init_args`.
            predictions: Of its validation images, by which the temperatures are found.
        """
        augmentation = data.augmentation
        if augmentation is not None and type(augmentation).clean is Augmentation.clean:
            augmentation = None  # evaluation sees the images as they are
        augment = None if augmentation is None else config["init_args"]["augment"]
        return cls(
            principal=data.dataset.principal,
            # A network may have fewer tasks than its data.
            tasks=dict(zip(predictions.tasks, class_names(data), strict=False)),
            temperatures=fit_temperatures([predictions]),
            preprocessing=Preprocessing.of(data.dataset, data.image_size, augmentation),
            augment=cast(Spec | None, augment),
        )

    def save(self, path: Path) -> None:
        """Write it to a file at once."""
        write_json(path, self.as_json())

    def as_json(self) -> CardJson:
        """Return it as a JSON value."""
        own = self.preprocessing
        levels = own.levels
        return {
            "format": FORMAT,
            "principal": self.principal,
            "tasks": {task: list(names) for task, names in self.tasks.items()},
            "temperatures": dict(self.temperatures),
            "preprocessing": {
                "shape": list(own.shape),
                "fit": own.fit,
                "levels": None if levels is None else {
                    "integers": list(levels.integers),
                    "floats": list(levels.floats),
                    "as_before": levels.as_before,
                },
                "max_pixels": own.max_pixels,
                "image_size": own.image_size,
                "augment": self.augment,
            },
        }  # fmt: skip

    @classmethod
    def load(cls, path: Path, remedy: str) -> Self:
        """Read a file.

        Args:
            path: The file.
            remedy: What to do where it cannot be read, for the message.

        Raises:
            ArtifactError: If it is missing, damaged or of a later version.
        """
        return cls.from_json(read_kind(path, CardJson, remedy), path)

    @classmethod
    def from_json(cls, value: CardJson, path: Path) -> Self:
        """Undo `as_json`.

        Args:
            value: The JSON value.
            path: Where it was read, for messages.

        Raises:
            ArtifactError: If it is of a later version.
            ValueError: If the augmentation cannot be built.
        """
        refuse_format(path, value["format"], FORMAT)
        given = value["preprocessing"]
        levels, augment = given["levels"], given["augment"]
        shape = given["shape"]
        if len(shape) != 3 or value["tasks"].keys() != value["temperatures"].keys():
            raise ArtifactError(f"{path} is damaged: its tasks or its image shape do not fit.")
        return cls(
            principal=value["principal"],
            tasks={task: tuple(names) for task, names in value["tasks"].items()},
            temperatures=value["temperatures"],
            preprocessing=Preprocessing(
                shape=(shape[0], shape[1], shape[2]),
                fit=given["fit"],
                levels=None if levels is None else Levels(
                    Range(*levels["integers"]), Range(*levels["floats"]), levels["as_before"]
                ),
                max_pixels=given["max_pixels"],
                image_size=given["image_size"],
                augmentation=None if augment is None else build(Augmentation, augment),
            ),
            augment=augment,
        )  # fmt: skip


def refuse_format(path: Path, found: int, known: int) -> None:
    """Refuse a file of a later version than this package knows.

    Raises:
        ArtifactError: If it is one.
    """
    if found > known:
        raise ArtifactError(
            f"{path} is of format {found}, and this version of detaux_pl knows up to {known}: "
            "update it (`pip install --upgrade detaux_pl`)."
        )


def class_names(data: LabelledDataModule) -> list[tuple[str, ...]]:
    """Return what the classes of each task are called, the principal one first.

    Those of a factor have the names of its values, or their numbers; those of a discovered task
    are numbers, and `noise` where that is a class.
    """
    dataset = data.dataset

    def of_factor(name: str) -> tuple[str, ...]:
        size = dataset.factor_sizes[dataset.factor_names.index(name)]
        names = tuple(dataset.value_names.get(name, ()))
        return names if len(names) == size else tuple(map(str, range(size)))

    found = [of_factor(dataset.principal)]
    if data.factors is not None:
        return found + [of_factor(name) for name in data.factors]
    if data.labels is not None:
        for task in load_tasks(data.labels):
            noise = task.meta.get("noise_class")
            groups = range(task.n_classes)
            found.append(tuple("noise" if group == noise else str(group) for group in groups))
    return found
