"""The stages that train: disentangle and multitask, each one LightningCLI."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pydoc import locate
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BasePredictionWriter, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from detaux_pl.artifacts.codes import CodesShard, write_codes_info
from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import sha256_file, write_json, write_text
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.cost import CostRecord
from detaux_pl.cli.main import TERMINATED, stopped
from detaux_pl.cli.parser import ShortParser, config_parser, explain
from detaux_pl.cli.progress import StageProgress
from detaux_pl.cli.records import merge_records, next_part
from detaux_pl.cli.snapshot import Snapshot
from detaux_pl.cli.stage import (
    codes_settings,
    discovery_folder,
    import_room,
    is_global_zero,
    run_stage,
    trainable_settings,
    wants_redo,
)
from detaux_pl.data.factor_dataset import existing_file
from detaux_pl.data.modules import Batch, FactorDataModule, LabelledDataModule, PairDataModule
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.evaluation.run import check_files
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.bilevel import BilevelModel

SNAPSHOT_SECONDS = 600.0
"""Most time that a killed training loses, however long its epochs are."""

SUBCOMMANDS = {
    "disentangle": ("fit", "validate", "test", "predict"),
    "multitask": ("fit", "validate", "test"),
}


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
    """The parser that LightningCLI fills, with our errors and help."""


class _ParserOnly(Exception):
    """Ends the construction of a StageCLI of which only the parser is wanted."""


class StageCLI(LightningCLI):
    """One trainable stage of the chain.

    Args:
        stage: `disentangle` or `multitask`.
        args: Its arguments; None to build the parser only.
    """

    def __init__(self, stage: str, args: Sequence[str] | None) -> None:
        self.stage = stage
        self.given = args
        for room in ("data", "losses", stage):
            import_room(room)
        disentangle = stage == "disentangle"
        super().__init__(
            model_class=Disentangler if disentangle else MultitaskModel,
            datamodule_class=FactorDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                # Our samplers give each rank its share themselves.
                "use_distributed_sampler": False,
            },
            parser_kwargs={"prog": f"detaux {stage}"},
            run=False,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a stage has beside model, data and trainer, and link the three."""
        parser.add_argument(
            "--run_dir", type=str, default=f"runs/{self.stage}", help="Folder of the run."
        )
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
        if self.stage == "disentangle":
            parser.set_defaults({"data": {"class_path": _path_of(PairDataModule)}})
            _link(parser, "n_classes", lambda data: data.n_classes)
        else:
            parser.set_defaults({"data": {"class_path": _path_of(LabelledDataModule)}})
            parser.add_argument(
                "--refined", type=bool, default=False,
                help="Whether the labels are those of refine; else they are those of cluster.",
            )  # fmt: skip
            parser.add_argument(
                "--arm", type=str, default=None,
                help="Name of the arm; by default that of the model's class.",
            )  # fmt: skip
            _link(parser, "task_sizes", lambda data: data.task_sizes)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the stage's arguments, not those of the process, which DDP executes again."""
        if self.given is None:
            raise _ParserOnly
        self.config = parser.parse_args(list(self.given))

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
        try:
            super().instantiate_classes()
        except (ValueError, TypeError) as error:
            raise explain(error) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Leave the trainer to the work that is done with it."""
        return None  # type: ignore[return-value]

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make the empty parser, with our header and without a short option for the config."""
        return config_parser(StageParser, **kwargs)

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
        self, folder: Path, name: str, callbacks: list[Any], loggers: list[Logger]
    ) -> Trainer:
        """Build the trainer that the configuration asks for, with our callbacks and loggers."""
        config = dict(self.config_init["trainer"])
        config["callbacks"] = [*(config.get("callbacks") or []), *callbacks]
        if config.get("enable_progress_bar") is not False:
            config["callbacks"].append(StageProgress(name))
        config["logger"] = [*loggers, *_user_loggers(config.get("logger"))]
        config["default_root_dir"] = str(folder)
        try:
            return Trainer(**config)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise explain(error) from error


def stage_parser(stage: str) -> LightningArgumentParser:
    """Return the parser of a trainable stage."""
    cli = StageCLI.__new__(StageCLI)
    with suppress(_ParserOnly):
        cli.__init__(stage, None)  # type: ignore[misc]
    return cli.parser


def resolve(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return a parsed configuration as plain values, links included."""
    text = parser.dump(config, skip_link_targets=False, skip_unset=False, skip_validation=True)
    values: dict[str, Any] = yaml.safe_load(text)
    values.pop("config", None)
    return values


def arm_name(class_path: str) -> str:
    """Return the snake-case name of a class: `HardParameterSharing` -> hard_parameter_sharing."""
    parts = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return re.sub(parts, "_", class_path.rsplit(".", 1)[-1]).lower()


def stage_folder(stage: str, config: dict[str, Any]) -> str:
    """Return the path of a trainable stage inside the run folder."""
    if stage == "disentangle":
        return discovery_folder(stage, config["discovery"])
    arm = config["arm"] or arm_name(config["model"]["class_path"])
    if not re.fullmatch(r"[\w-]+", arm):
        raise UserError(f"arm is {arm!r}: the name of a folder, of letters, digits, - and _.")
    return f"multitask/{arm}/seed{config['seed_everything']}"


def needs_labels(config: Mapping[str, Any]) -> bool:
    """Whether a multi-task training reads discovered labels: not those of a known factor.

    Args:
        config: Its resolved configuration.
    """
    model: Any = locate(config["model"]["class_path"])
    auxiliary = config["data"]["init_args"].get("auxiliary")
    return model.uses_auxiliary and auxiliary in ("discovered", "shuffled")


def labels_stage(config: Mapping[str, Any]) -> str:
    """Return the name of the stage whose labels a multi-task training reads."""
    return discovery_folder("refine" if config["refined"] else "cluster", config["discovery"])


def run(stage: str, args: list[str]) -> int:
    """Run `detaux disentangle ...` or `detaux multitask ...`."""
    allowed = SUBCOMMANDS[stage]
    if args and args[0] in ("-h", "--help"):
        args = ["fit", *args]
    if not args or args[0] not in allowed:
        raise UserError(
            f"`detaux {stage}` got {repr(args[0]) if args else 'no command'}: "
            f"choose one of {', '.join(allowed)}."
        )
    subcommand, *rest = args
    quiet()
    cli = StageCLI(stage, rest)
    job = _Job(cli)
    try:
        return {"fit": job.fit, "predict": job.predict}.get(
            subcommand, partial(job.evaluate, subcommand)
        )()
    except SIGTERMException:
        return stopped(TERMINATED)
    finally:
        job.close()


class _Job:
    """One subcommand on one stage folder."""

    def __init__(self, cli: StageCLI) -> None:
        self.cli = cli
        self.config = cli.resolved
        self.model: Any = cli.model
        self.data: FactorDataModule = cli.datamodule
        self.folder = StageFolder(cli.run_dir, stage_folder(cli.stage, self.config))
        self.tracked = False

    @property
    def checkpoints(self) -> Path:
        return self.folder.path.resolve() / "checkpoints"

    def fit(self) -> int:
        follows = self.cli.stage == "multitask" and self.cli.reads_labels
        upstream = [labels_stage(self.config)] if follows else []
        self.data.describe()
        files = self.data.dataset.fingerprint()
        if follows:
            check_files(self.cli.run_dir, files)
        settings = trainable_settings(self.config, None if follows else files)
        labels = getattr(self.data, "labels", None)
        if not follows and labels is not None:
            existing_file(labels / "labels.npz", "cluster first.")
            files_of = [*labels.glob("labels*.npz"), *labels.glob("labels*.json")]
            settings["labels"] = {path.name: sha256_file(path) for path in sorted(files_of)}
        did = run_stage(
            self.folder,
            settings,
            upstream,
            self._fit,
            redo=wants_redo(self.config["redo"], self.folder.name),
        )
        return _done(did, self.folder)

    def predict(self) -> int:
        self.data.describe()
        check_files(self.cli.run_dir, self.data.dataset.fingerprint())
        folder = StageFolder(self.cli.run_dir, f"{self.folder.name}/codes")
        did = run_stage(
            folder,
            codes_settings(self.config),
            [self.folder.name],
            partial(self._predict, folder.path),
            redo=wants_redo(self.config["redo"], folder.name),
        )
        return _done(did, folder)

    def evaluate(self, subcommand: str) -> int:
        name = "best" if self.cli.stage == "multitask" else "last"
        checkpoint = self._checkpoint(name)
        trained_on = list((self.folder.manifest or {}).get("inputs", {}))
        reads = self.cli.stage == "multitask" and self.cli.reads_labels
        if reads and trained_on and labels_stage(self.config) not in trained_on:
            raise UserError(
                f"{self.folder.path} was trained on the labels of {', '.join(trained_on)}, not of "
                f"{labels_stage(self.config)}: give the --discovery that it is of."
            )
        self.data.describe()
        check_files(self.cli.run_dir, self.data.dataset.fingerprint())
        trainer = self._trainer(callbacks=[], loggers=[])
        metrics = getattr(trainer, subcommand)(
            self.model, datamodule=self.data, ckpt_path=checkpoint, verbose=False
        )[0]
        if is_global_zero():
            from rich.console import Console
            from rich.table import Table

            table = Table(title=f"{self.folder.name} · {subcommand}", title_justify="left")
            table.add_column("metric")
            table.add_column("value", justify="right")
            for key, value in sorted(metrics.items()):
                table.add_row(key, f"{value:.4f}")
            Console().print(table)
        return 0

    def close(self) -> None:
        if self.tracked:
            import wandb

            wandb.finish()
        if torch.distributed.is_initialized():
            # Lightning leaves it to the end of the interpreter, which gloo's threads may abort.
            torch.distributed.destroy_process_group()

    def _fit(self) -> list[Path]:
        if is_global_zero():
            write_text(
                self.folder.path / "config.yaml",
                yaml.safe_dump({**self.config, "redo": None}, sort_keys=False),
            )
        multitask = self.cli.stage == "multitask"
        named = partial(
            ModelCheckpoint,
            dirpath=self.checkpoints,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )
        # The disentangler may finish its codes at the end of the epoch, after validation.
        checkpoints = [named(filename="last", save_on_train_epoch_end=None if multitask else True)]
        if multitask:  # the best first: the last one keeps which it was
            best = named(filename="best", monitor="val/accuracy/principal", mode="max")
            checkpoints.insert(0, best)
        record = CSVLogger(
            self.folder.path,
            name="logs",
            version=next_part(self.folder.path),
            flush_logs_every_n_steps=1,
        )
        last = self.checkpoints / "last.ckpt"
        snapshot = Snapshot(last, SNAPSHOT_SECONDS)
        costs = [CostRecord(self.folder.path)] if multitask else []
        trainer = self._trainer([*checkpoints, *costs, snapshot], [record, *self._wandb()])
        if last.is_file():
            _check_checkpoint(last)
        trainer.fit(self.model, datamodule=self.data, ckpt_path=last if last.is_file() else None)
        if trainer.interrupted:
            raise KeyboardInterrupt
        outputs = [self.folder.path / "config.yaml", last]
        if multitask:
            metrics = trainer.test(
                self.model,
                datamodule=self.data,
                ckpt_path=self._checkpoint("best"),
                verbose=False,
            )[0]
            outputs += [self.checkpoints / "best.ckpt"]
            outputs += [self.folder.path / name for name in ("test.json", "cost.json")]
            if trainer.is_global_zero:
                write_json(self.folder.path / "test.json", metrics)
        if trainer.is_global_zero:
            merge_records(self.folder.path)
        trainer.strategy.barrier()
        return [*outputs, self.folder.path / "metrics.csv"]

    def _predict(self, folder: Path) -> list[Path]:
        if is_global_zero():
            for shard in folder.glob("rank*"):  # of an interrupted run, maybe on other ranks
                shutil.rmtree(shard)
        writer = _CodesWriter(folder, self.data, self.model)
        trainer = self._trainer([writer], [])
        trainer.predict(
            self.model,
            datamodule=self.data,
            ckpt_path=self._checkpoint("last"),
            return_predictions=False,
        )
        if trainer.interrupted:
            raise KeyboardInterrupt
        # Rank 0 records the shards of all: none may be missing then.
        trainer.strategy.barrier()
        return [*folder.glob("rank*/*.npy"), folder / "codes.json"]

    def _checkpoint(self, name: str) -> Path:
        path = self.checkpoints / f"{name}.ckpt"
        if not path.is_file():
            raise ArtifactError(
                f"{path} is missing: run `detaux {self.cli.stage} fit` in this run folder first."
            )
        return path

    def _trainer(self, callbacks: list[Any], loggers: list[Logger]) -> Trainer:
        return self.cli.trainer_for(self.folder.path, self.folder.name, callbacks, loggers)

    def _wandb(self) -> list[Logger]:
        tracking = self.config["tracking"]
        if tracking["wandb"] == "disabled":
            return []
        from detaux_pl.cli.tracking import wandb_logger

        self.tracked = True
        return [wandb_logger(tracking, self.folder, self.config)]


class _CodesWriter(BasePredictionWriter):
    """Write the codes of this rank as they come, and what else comes, to its own shard."""

    def __init__(self, folder: Path, data: FactorDataModule, model: Disentangler) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder
        self.data = data
        self.model = model
        self.names: tuple[str, ...] = (model.code_name,)
        self.shard: CodesShard | None = None

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Mapping[str, torch.Tensor],
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append the arrays of a batch, shape (B, K, D) each, the codes first."""
        dataset = self.data.dataset
        if self.shard is None:
            loader: Any = trainer.predict_dataloaders
            total = sum(len(rows) for rows in loader.sampler)
            shapes = {name: tuple(values.shape[1:]) for name, values in prediction.items()}
            self.names = tuple(shapes)
            self.shard = CodesShard(self.folder, trainer.global_rank, total, shapes)
        rows = batch.rows.cpu().numpy()
        self.shard.append(
            {name: values.float().cpu().numpy() for name, values in prediction.items()},
            dataset.ids[rows],
            dataset.splits[rows],
            dataset.factors[rows],
        )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is pending, and once for all ranks what the columns mean."""
        if self.shard is not None:
            self.shard.close()
        if trainer.is_global_zero:
            # Only now: a checkpoint, which the trainer loads, may say which subspace it is.
            principal = self.model.principal_subspace
            info = replace(self.data.dataset.info, principal_subspace=principal)
            write_codes_info(self.folder, info, len(self.data.dataset), self.names)


def refuse_unusable(stage: str, config: dict[str, Any]) -> None:
    """Refuse settings of Lightning's and of the model's that a stage cannot honour.

    Raises:
        UserError: If one is set.
    """
    trainer = config["trainer"]
    if trainer["fast_dev_run"] or trainer["enable_checkpointing"] is False:
        raise UserError(
            f"{stage}.trainer: without a checkpoint the next stage has nothing to read. Leave out "
            "fast_dev_run and enable_checkpointing; max_epochs and limit_train_batches make a run "
            "short."
        )
    if config["model"] is None:
        raise UserError(f"{stage}.model is not set: give a class, as the files in configs do.")
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


def _check_checkpoint(path: Path) -> None:
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load has no error of its own for a damaged file
        raise ArtifactError(
            f"{path} cannot be read ({type(error).__name__}): delete it to begin the stage anew."
        ) from None


def _done(did: bool, folder: StageFolder) -> int:
    if is_global_zero() and not did and not os.environ.get("DETAUX_STAGE"):
        print(f"{folder.path} is complete: nothing to do", file=sys.stderr)
    return 0


def _path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def quiet() -> None:
    """Keep what Lightning says of every run, and nobody can act on, off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # data in memory need none
        ".*smaller than the logging interval.*",  # epochs are what is logged
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed stage
        ".*treespec, LeafSpec.*",  # Lightning 2.6 on torch 2.15
        ".*infer the batch indices fetched.*",  # our batches carry their own
        ".*callbacks used to create the checkpoint.*",  # only fit writes checkpoints
        ".*The dirpath has changed.*",  # the trainer of predict has another one
    ):
        warnings.filterwarnings("ignore", message=message)


def _link(parser: LightningArgumentParser, name: str, of_data: Callable[[Any], Any]) -> None:
    """Fill a parameter of the model, where it has one of that name, from the built data."""
    parser.link_arguments(
        "data", f"model.init_args.{name}", compute_fn=of_data, apply_on="instantiate"
    )


def _user_loggers(value: Any) -> list[Logger]:
    values = value if isinstance(value, list) else [value]
    return [logger for logger in values if isinstance(logger, Logger)]
