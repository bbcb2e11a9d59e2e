"""The stages that train: disentangle and multitask, each one LightningCLI."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from detaux_pl.artifacts.errors import UserError, path_cause
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.artifacts.yaml_text import load_yaml
from detaux_pl.data.modules import FactorDataModule, LabelledDataModule, PairDataModule
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.bilevel import BilevelModel
from detaux_pl.settings.build import import_room
from detaux_pl.settings.foreign import refuse_code
from detaux_pl.settings.limits import refuse_not_finite, refuse_seed
from detaux_pl.settings.names import labels_stage, needs_labels
from detaux_pl.settings.parser import ShortParser, config_parser, explain
from detaux_pl.settings.words import plain
from detaux_pl.training.checkpoints import WholeCheckpoints
from detaux_pl.training.progress import StageProgress
from detaux_pl.training.quiet import quiet
from detaux_pl.training.trainer_limits import refuse_trainer

_LASTING = ("deterministic", "benchmark", "detect_anomaly")
"""Settings of a trainer that change the process which builds it."""


@dataclass(frozen=True)
class Tracking:
    """Where runs are recorded beside the CSV files, which are always written.

    Args:
        wandb: `disabled`, `online` or `offline`; one W&B run per stage, grouped by the run.
        project: W&B project.
        entity: W&B user or team; None for the default one.
    """

    wandb: Literal["disabled", "online", "offline"] = "disabled"
    project: str = "detaux"
    entity: str | None = None


class StageParser(ShortParser, LightningArgumentParser):
    """The parser of a trainable stage, with our errors and help."""


class StageCLI(LightningCLI):
    """One trainable stage of the chain.

    Args:
        stage: `disentangle` or `multitask`.
        args: Its arguments.
    """

    def __init__(self, stage: str, args: Sequence[str]) -> None:
        self.stage = stage
        self.given = args
        super().__init__(save_config_callback=None, run=False, auto_configure_optimizers=False)

    def setup_parser(self, *args: Any) -> None:
        """Take the parser that the chain takes too."""
        self.parser = stage_parser(self.stage)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the stage's arguments, not those of the process, which DDP executes again."""
        self.config = parser.parse_args(list(self.given))
        _refuse_seed(self.stage, self.config.seed_everything)  # before it is used

    def before_instantiate_classes(self) -> None:
        """Fill in the labels of the run folder, and check them while errors are still legible."""
        self.resolved = resolve(self.parser, self.config)
        refuse_unusable(self.stage, self.resolved)
        discovery = self.resolved["discovery"]
        if self.stage == "multitask" and discovery is not None and not self.reads_labels:
            raise UserError(
                f"discovery is {discovery!r}, but {self.run_dir} has no finished clusters of that "
                "name, or the model or data.auxiliary reads none: leave it out, or run `detaux "
                f"cluster --discovery {discovery}` first."
            )
        if self.stage == "multitask" and self.reads_labels:
            self.config.data.init_args.labels = str(self.run_dir / labels_stage(self.resolved))

    def instantiate_classes(self) -> None:
        """Build model and data; say in one line what is wrong with their arguments."""
        self.config = plain(self.config)
        try:
            super().instantiate_classes()
        except (ValueError, TypeError) as error:
            if (line := path_cause(error)) is not None:
                raise UserError(line) from error
            raise explain(error, self.resolved) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Leave the trainer to the work that is done with it."""
        return None  # type: ignore[return-value]

    @property
    def reads_labels(self) -> bool:
        """Whether the auxiliary labels are those of the run folder, not given by the user."""
        given = self.resolved["data"]["init_args"]
        return (
            needs_labels(self.resolved)
            and given["labels"] is None
            and (self.run_dir / labels_stage(self.resolved) / "stage.json").is_file()
        )

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.config.run_dir)

    def trainer_for(
        self, folder: StageFolder, callbacks: list[Any], loggers: list[Logger]
    ) -> Trainer:
        """Build the trainer that the configuration asks for, with our callbacks and loggers."""
        config = dict(self.config_init["trainer"])
        config["callbacks"] = [*(config.get("callbacks") or []), *callbacks]
        if config.get("enable_progress_bar") is not False:
            config["callbacks"].append(StageProgress(folder.name))
        config["logger"] = [*loggers, *_user_loggers(config.get("logger"))]
        config["default_root_dir"] = str(folder.path)
        try:
            trainer = Trainer(**config)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(f"trainer: {explain(error)}") from error
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one of the user's
            trainer.strategy.checkpoint_io = WholeCheckpoints(folder)
        return trainer


def stage_parser(stage: str) -> StageParser:
    """Return the parser of a trainable stage: what it is given, and what its parts tell each other.

    Args:
        stage: `disentangle` or `multitask`.
    """
    for room in ("data", "losses", stage):
        import_room(room)
    disentangle = stage == "disentangle"
    parser = config_parser(StageParser, prog=f"detaux {stage}")
    parser.add_argument(
        "--seed_everything", type=bool | int, default=0,
        help="Seed of everything that is drawn; true for a random one.",
    )  # fmt: skip
    parser.add_lightning_class_args(Trainer, "trainer")
    # Our samplers give each rank its share themselves.
    ours = {"enable_model_summary": False, "num_sanity_val_steps": 0}
    ours |= {"use_distributed_sampler": False}
    parser.set_defaults({f"trainer.{name}": value for name, value in ours.items()})
    model = Disentangler if disentangle else MultitaskModel
    parser.add_lightning_class_args(model, "model", subclass_mode=True)
    parser.add_lightning_class_args(FactorDataModule, "data", subclass_mode=True)
    data = PairDataModule if disentangle else LabelledDataModule
    parser.set_defaults({"data": {"class_path": _path_of(data)}})
    parser.add_argument("--run_dir", type=str, default=f"runs/{stage}", help="Folder of the run.")
    parser.add_argument(
        "--redo", type=str, default=None, help="Name of the stage, to begin it anew."
    )
    parser.add_argument(
        "--discovery", type=str, default=None,
        help="Name of a further discovery of the run; null for the main one.",
    )  # fmt: skip
    parser.add_class_arguments(Tracking, "tracking")
    _link(parser, "image_shape", lambda data: data.image_shape)
    parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
    if disentangle:
        _link(parser, "n_classes", lambda data: data.n_classes)
        return parser
    parser.add_argument(
        "--refined", type=bool, default=False,
        help="Whether the labels are those of refine; else they are those of cluster.",
    )  # fmt: skip
    parser.add_argument(
        "--arm", type=str, default=None,
        help="Name of the arm; by default that of the model's class.",
    )  # fmt: skip
    parser.add_argument(
        "--keep_weights", type=bool, default=True,
        help="Whether the trained weights stay, which predict and export read; controls keep none.",
    )  # fmt: skip
    _link(parser, "task_sizes", lambda data: data.task_sizes)
    return parser


def try_trainer(stage: str, settings: Mapping[str, Any]) -> None:
    """Build a trainer once, which refuses what it would refuse when it is its turn.

    What depends on how many batches there are is not known yet. Callbacks, loggers and plugins are
    left out, as they may begin something.

    Args:
        stage: `disentangle` or `multitask`.
        settings: The resolved settings of the trainer.

    Raises:
        UserError: If Lightning refuses them, or they ask for several machines.
    """
    if settings["num_nodes"] != 1:
        raise UserError(
            f"{stage}.trainer.num_nodes is {settings['num_nodes']}, and `detaux fit` starts the "
            "processes of one machine: on several launch the stages one by one, under torchrun or "
            "SLURM."
        )
    own = {
        name: value
        for name, value in settings.items()
        if name not in _LASTING and (name == "devices" or not isinstance(value, dict | list))
    }
    quiet()
    try:
        Trainer(**{**own, "logger": False, "enable_progress_bar": False})
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(f"{stage}.trainer: {explain(error)}") from error


@cache
def resolving_parser(stage: str) -> StageParser:
    """Return the parser of a trainable stage for settings as an object: one for all of them.

    It is not to become a part of another parser, which changes it.

    Args:
        stage: `disentangle` or `multitask`.
    """
    return stage_parser(stage)


def resolve(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return a parsed configuration as plain values, links included."""
    text = parser.dump(config, skip_link_targets=False, skip_unset=False, skip_validation=True)
    values: dict[str, Any] = load_yaml(text)
    values.pop("config", None)
    return values


def refuse_unusable(stage: str, config: dict[str, Any]) -> None:
    """Refuse settings of Lightning's and of the model's that a stage cannot honour.

    Raises:
        UserError: If one is set.
    """
    for part in ("trainer", "tracking"):
        if not isinstance(config[part], dict):
            raise UserError(f"{stage}.{part} is {config[part]!r}: give its settings.")
    for part in ("model", "data", "trainer"):
        refuse_code(config[part], f"{stage}.{part}")
    trainer = config["trainer"]
    if trainer["fast_dev_run"] or trainer["enable_checkpointing"] is False:
        raise UserError(
            f"{stage}.trainer: without a checkpoint the next stage has nothing to read. Leave out "
            "fast_dev_run and enable_checkpointing; max_epochs and limit_train_batches make a run "
            "short."
        )
    refuse_trainer(stage, trainer)
    refuse_not_finite(f"{stage}.trainer", trainer)
    _refuse_seed(stage, config["seed_everything"])
    if config["model"] is None:
        raise UserError(f"{stage}.model is not set: give a class, as the files in configs do.")
    refuse_not_finite(f"{stage}.model", config["model"], unbounded=("clip",))
    refuse_not_finite(f"{stage}.data", config["data"])
    model: Any = locate(config["model"]["class_path"])
    plain = {
        "gradient_clip_val": None,
        "gradient_clip_algorithm": None,
        "accumulate_grad_batches": 1,
        "sync_batchnorm": False,
    }
    for name, default in plain.items():
        if issubclass(model, BilevelModel) and trainer[name] not in (default, 0, 0.0):
            raise UserError(
                f"{stage}.trainer.{name} is {trainer[name]!r}, but {model.__name__} makes several "
                "steps of each batch by itself and cannot heed it: leave out the one or the other."
            )
    for name in ("image_shape", "n_classes", "task_sizes"):
        value = config["model"].get("init_args", {}).get(name)
        if value is not None:
            raise UserError(
                f"{stage}.model.init_args.{name} is {value!r}: leave it out, it is taken from the "
                "data."
            )


def _refuse_seed(stage: str, seed: bool | int) -> None:
    if not isinstance(seed, bool):  # true is for a random one
        refuse_seed(f"{stage}.seed_everything", seed)


def _path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _link(parser: LightningArgumentParser, name: str, of_data: Callable[[Any], Any]) -> None:
    """Fill a parameter of the model, where it has one of that name, from the built data."""
    parser.link_arguments(
        "data", f"model.init_args.{name}", compute_fn=of_data, apply_on="instantiate"
    )


def _user_loggers(value: Any) -> list[Logger]:
    values = value if isinstance(value, list) else [value]
    return [logger for logger in values if isinstance(logger, Logger)]
