"""The rungs that people would take on their own data, and the chains that measure them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pydoc import locate
from typing import Any

from detaux_pl.artifacts.errors import UserError
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.job import Chain
from detaux_pl.settings.build import constructor_defaults, import_room
from detaux_pl.settings.choices import closest, concrete_subclasses


@dataclass(frozen=True)
class Rung:
    """One way to a classifier.

    Args:
        model: Class of its model; what this does not say is as in `multitask` of the config.
        about: What it is, for the page.
        alone: The rung that is the same without the discovered task, where it has one.
        data: Settings of the data module of its own.
    """

    model: str
    about: str
    alone: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> type[MultitaskModel]:
        """Its class."""
        import_room("multitask")
        return next(c for c in concrete_subclasses(MultitaskModel) if c.__name__ == self.model)


RUNGS = {
    "majority": Rung("Majority", "the most frequent class"),
    "knn": Rung("NearestNeighbors", "nearest neighbours by frozen features"),
    "probe": Rung("FrozenClassifier", "logistic regression on frozen features"),
    "erasure": Rung("ErasingClassifier", "the probe, discovered groups erased", alone="probe"),
    "network": Rung("SingleTask", "the network of the config, trained on the label alone"),
    "network_light": Rung("SingleTask", "the same, light augmentation", data={"augment": "light"}),
    "network_standard": Rung(
        "SingleTask", "the same, standard augmentation", data={"augment": "standard"}
    ),
    "network_strong": Rung(
        "SingleTask", "the same, strong augmentation", data={"augment": "strong"}
    ),
    "rotation": Rung("RotationLabels", "the network, class and rotation as one label"),
    "ssat": Rung("MaskedReconstruction", "the network, completing masked images beside it"),
    "simclr": Rung("AuxiliarySimCLR", "the network, telling two views of an image from others"),
    "supcon": Rung("SupervisedContrastive", "the network and the supervised contrastive loss"),
    "task": Rung("HardParameterSharing", "the network and the discovered task", alone="network"),
    "task_light": Rung(
        "HardParameterSharing", "the same, light augmentation", alone="network_light",
        data={"augment": "light"},
    ),
    "task_standard": Rung(
        "HardParameterSharing", "the same, standard augmentation", alone="network_standard",
        data={"augment": "standard"},
    ),
    "task_strong": Rung(
        "HardParameterSharing", "the same, strong augmentation", alone="network_strong",
        data={"augment": "strong"},
    ),
}  # fmt: skip
"""The rungs by name, from the least to the most trouble."""

PARTNERS = {rung.alone: name for name, rung in RUNGS.items() if name.startswith("task")}
"""By the name of a trained rung, that of the same with the discovered task."""
_ONE_STEP: Mapping[str, Mapping[str, Any]] = {
    "trainer": {"max_epochs": 1, "limit_train_batches": 1, "check_val_every_n_epoch": 1},
    "data": {"batch_size": 2},
}
"""How a model is run that no step trains."""
_EXTRAS = (
    "--until",
    "multitask",
    "--controls",
    "[]",
    "--discoveries",
    "{}",
    "--evaluate.metrics",
    "[]",
    "--seeds",
)


@dataclass(frozen=True)
class Ladder:
    """What is to be measured.

    Args:
        words: The arguments of a chain that all have in common.
        rungs: Names of the rungs.
        labels: Labels of each class; None for all that there are.
        seeds: How often each is measured, with other labels where these are few, and other nets.
        seed: The first seed.
        ensemble: Networks of each trained rung that answer together; 1 for none.
        folder: Where the runs lie.
        model: Class of the model of the config.
        given: What the config says of it that is not the default.
        best: How many of the best trained rungs learn the discovered task too.
    """

    words: Sequence[str]
    rungs: Sequence[str]
    labels: Sequence[int | None]
    seeds: int
    seed: int
    ensemble: int
    folder: Path
    model: type[MultitaskModel]
    given: Mapping[str, Any]
    best: int

    @property
    def each(self) -> range:
        """The seeds."""
        return range(self.seed, self.seed + self.seeds)

    def run_dir(self, labels: int | None, seed: int) -> Path:
        """Folder of one run."""
        return self.folder / ("all" if labels is None else f"labels{labels}") / f"seed{seed}"

    def chain(self, labels: int | None, seed: int, rungs: Sequence[str]) -> Chain:
        """Return the chain that measures some rungs once, each the same whatever others there are.

        Args:
            labels: Labels of each class; None for all.
            seed: Which measurement.
            rungs: Names of the rungs, at least one.

        Raises:
            UserError: If a setting is unknown or does not fit.
        """
        # What a rung does not say is as in the main arm, which is none of them.
        told = [RUNGS[name].kind for name in rungs if RUNGS[name].kind.uses_auxiliary]
        told = [kind for kind in told if kind.trained == self.model.trained]
        alone = "SingleTask" if self.model.trained else "FrozenClassifier"
        main = told[0].__name__ if told else alone
        named = [] if main == self.model.__name__ else ["--multitask.model", main]
        arms = [
            {"name": name, "class_path": rung.model, **self._settings(rung)}
            for name, rung in RUNGS.items()
            if name in rungs
        ]
        few = None if labels is None else {"per_class": labels, "seed": seed}
        chain = parse([
            *self.words, *named, "--multitask.arm", "main", "--baselines", json.dumps(arms),
            "--few_labels", json.dumps(few), "--seed", str(seed * self.ensemble), *_EXTRAS,
            str(self.ensemble), "--run_dir", str(self.run_dir(labels, seed)),
        ])  # fmt: skip
        # Reports begin with what learns the discovered groups.
        first = sorted(rungs, key=lambda name: not RUNGS[name].kind.uses_auxiliary)
        grouped = any(RUNGS[name].kind.uses_auxiliary for name in rungs)
        without = frozenset({"evaluate"} if grouped else {"evaluate", "cluster", "refine"})
        return replace(chain, arms={name: chain.arms[name] for name in first}, without=without)

    def _settings(self, rung: Rung) -> dict[str, Any]:
        """Settings of a rung: what no step trains takes one, where the config has more."""
        steps = {} if rung.kind.trained or not self.model.trained else _ONE_STEP
        given = self.given if rung.kind is self.model else {}
        return {
            "init_args": {**given},
            "data": {**steps.get("data", {}), **rung.data},
            "trainer": {**steps.get("trainer", {})},
        }


def plan_ladder(
    words: Sequence[str],
    rungs: Sequence[str] | None,
    labels: Sequence[int | None],
    seeds: int,
    seed: int,
    ensemble: int,
    folder: str | None,
    best: int | None,
) -> Ladder:
    """Say what is to be measured; for the arguments see `Ladder`.

    Args:
        words: Arguments of a chain.
        rungs: Names of rungs; None for those that the config has the networks for.
        labels: See `Ladder`, as the rest.
        seeds: See there.
        seed: See there.
        ensemble: See there.
        folder: None for the run folder of the config, with `_ladder` after it.
        best: See there; None for 2 where the rungs are not named, else for none.

    Raises:
        UserError: If there is no such rung, or the config does not say how it is trained.
    """
    for name in rungs or ():
        if name not in RUNGS:
            raise UserError(f"--rungs names {name!r}: {closest(name, [*RUNGS])}")
    if rungs is not None and len({*rungs}) < len(rungs):
        raise UserError(f"--rungs is {','.join(rungs)}: give each rung once.")
    for name, value in (("seeds", seeds), ("ensemble", ensemble)):
        if value < 1:
            raise UserError(f"--{name} is {value}: give at least 1.")
    if best is not None and best < 0:
        raise UserError(f"--with_task is {best}: give 0 for none, or how many rungs.")
    config = parse([*words, "--baselines", "[]", *_EXTRAS, "1"]).config
    model: Any = locate(config["multitask"]["model"]["class_path"])
    disentangler: Any = locate(config["disentangle"]["model"]["class_path"])
    if rungs is None:
        rungs = [
            name
            for name, rung in RUNGS.items()
            if (
                model.trained and not rung.kind.uses_auxiliary
                if rung.kind.trained
                else disentangler.gives_features
            )
            or name == "majority"
        ]
        best = 2 if best is None else best
    for name in rungs:
        if RUNGS[name].kind.trained and not model.trained:
            raise UserError(
                f"the rung {name!r} trains a network, and multitask of the config is "
                f"{model.__name__}, which trains none: say which network, such as --multitask "
                "configs/multitask/hard_parameter_sharing.yaml."
            )
    if best is None or not PARTNERS.keys() & {*rungs}:
        best = 0
    run_dir = Path(folder or f"{config['run_dir'].rstrip('/')}_ladder")
    defaults = constructor_defaults(model)
    own = config["multitask"]["model"].get("init_args", {})
    given = {k: v for k, v in own.items() if k in defaults and v != defaults[k]}
    return Ladder(words, rungs, labels, seeds, seed, ensemble, run_dir, model, given, best)
