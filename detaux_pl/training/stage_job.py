"""One subcommand of a stage that trains, on one folder of a run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.exit_codes import TERMINATED, stopped
from detaux_pl.artifacts.files import sha256_file, write_json, write_text
from detaux_pl.artifacts.run_stage import is_global_zero, run_stage
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.artifacts.terminal import terminal
from detaux_pl.artifacts.yaml_text import dump_yaml
from detaux_pl.data.factor_dataset import existing_file
from detaux_pl.data.modules import FactorDataModule, LabelledDataModule
from detaux_pl.inference.card import Card
from detaux_pl.inference.checkpoint import (
    checkpoint_path,
    fitting_weights,
    is_output,
    read_checkpoint,
    refuse_without_weights,
)
from detaux_pl.inference.run import check_files
from detaux_pl.models.divergence import DivergenceWatch, refuse_loss
from detaux_pl.models.lone_image import refuse_lone_image
from detaux_pl.settings.keys import codes_settings, trainable_settings
from detaux_pl.settings.names import labels_stage, stage_folder, wants_redo
from detaux_pl.settings.parser import one_line
from detaux_pl.settings.places import follow_folder, remember_places
from detaux_pl.training.checkpoints import is_finished, keep_weights
from detaux_pl.training.codes_writer import CodesWriter
from detaux_pl.training.cost import CostRecord
from detaux_pl.training.predictions_writer import PredictionsWriter
from detaux_pl.training.quiet import quiet
from detaux_pl.training.records import merge_records, next_part
from detaux_pl.training.snapshot import Snapshot
from detaux_pl.training.stage_cli import StageCLI
from detaux_pl.training.trainer_limits import TestAhead

SNAPSHOT_SECONDS = 600.0
"""Most time that a killed training loses, however long its epochs are."""


def run(stage: str, allowed: Sequence[str], args: list[str]) -> int:
    """Run `detaux disentangle ...` or `detaux multitask ...`.

    Args:
        stage: The stage.
        allowed: Its subcommands.
        args: One of these, and its arguments.
    """
    if args and args[0] in ("-h", "--help"):
        args = ["fit", *args]
    if not args or args[0] not in allowed:
        raise UserError(
            f"`detaux {stage}` got {repr(args[0]) if args else 'no command'}: "
            f"choose one of {', '.join(allowed)}."
        )
    subcommand, *rest = args
    quiet()
    cli = StageCLI(stage, follow_folder(rest, "data.init_args.dataset"))
    job = StageJob(cli)
    try:
        return {"fit": job.fit, "predict": job.predict}.get(
            subcommand, partial(job.evaluate, subcommand)
        )()
    except SIGTERMException:
        return stopped(TERMINATED)
    finally:
        job.close()


class StageJob:
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
        """Folder of the checkpoints."""
        return self.folder.path.resolve() / "checkpoints"

    def fit(self) -> int:
        """Train, or go on with it; a multi-task model is tested at its best epoch."""
        follows = self.cli.stage == "multitask" and self.cli.reads_labels
        upstream = [labels_stage(self.config)] if follows else []
        self.data.describe()
        files = self.data.dataset.fingerprint()
        if follows:
            self._check_files(files)
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
        if self.cli.stage == "multitask" and is_global_zero():
            # Only now: until the stage is complete, a killed one goes on from it.
            checkpoint_path(self.folder, "last").unlink(missing_ok=True)
            if not is_output(self.folder, "best"):
                shutil.rmtree(self.checkpoints, ignore_errors=True)
        return _done(did, self.folder)

    def predict(self) -> int:
        """Write the codes of every image."""
        self.data.describe()
        self._check_files(self.data.dataset.fingerprint())
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
        """Print what `validate` or `test` measures."""
        name = "best" if self.cli.stage == "multitask" else "last"
        checkpoint = self._checkpoint(name)
        manifest = self.folder.manifest
        trained_on = [] if manifest is None else list(manifest["inputs"])
        reads = self.cli.stage == "multitask" and self.cli.reads_labels
        if reads and trained_on and labels_stage(self.config) not in trained_on:
            raise UserError(
                f"{self.folder.path} was trained on the labels of {', '.join(trained_on)}, not of "
                f"{labels_stage(self.config)}: give the --discovery that it is of."
            )
        self.data.describe()
        self._check_files(self.data.dataset.fingerprint())
        trainer = self._trainer([DivergenceWatch(self.folder.name)], [])
        with fitting_weights(checkpoint):
            metrics = getattr(trainer, subcommand)(
                self.model, datamodule=self.data, ckpt_path=checkpoint, verbose=False
            )[0]
        if is_global_zero():
            from rich.table import Table

            table = Table(title=f"{self.folder.name} · {subcommand}", title_justify="left")
            table.add_column("metric")
            table.add_column("value", justify="right")
            for key, value in sorted(metrics.items()):
                table.add_row(key, f"{value:.4f}")
            terminal().print(table)
        return 0

    def close(self) -> None:
        """End what the subcommand began beside its work."""
        if self.tracked:
            import wandb

            wandb.finish()
        if torch.distributed.is_initialized():
            # Lightning leaves it to the end of the interpreter, which gloo's threads may abort.
            torch.distributed.destroy_process_group()

    def _fit(self) -> list[Path]:
        folder, last = self.folder.path, self.checkpoints / "last.ckpt"
        config, curve = folder / "config.yaml", folder / "metrics.csv"
        if is_global_zero():
            write_text(config, dump_yaml({**self.config, "redo": None}))
        multitask = self.cli.stage == "multitask"
        if not multitask and last.is_file() and is_finished(self.folder, "last"):
            return [config, last, curve]
        watch = DivergenceWatch(self.folder.name)
        predictions = PredictionsWriter(folder, self.data.dataset)
        trainer = self._trainer_to_fit(last, watch, predictions)
        self._train(trainer, watch, last)
        outputs = self._finish_arm(trainer, predictions) if multitask else [last]
        if trainer.is_global_zero:
            merge_records(folder)
            # Last of all: what only a training needs that goes on is three quarters of the file.
            keep_weights(self.folder, "best" if multitask else "last")
        trainer.strategy.barrier()
        return [config, *outputs, curve]

    def _trainer_to_fit(
        self, last: Path, watch: DivergenceWatch, predictions: PredictionsWriter
    ) -> Trainer:
        """Build the trainer, whose callbacks come in an order that they rely on."""
        multitask = self.cli.stage == "multitask"
        named = partial(
            ModelCheckpoint,
            dirpath=self.checkpoints,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )
        # The disentangler may finish its codes at the end of the epoch, after validation.
        checkpoints = [named(filename="last", save_on_train_epoch_end=None if multitask else True)]
        averaging, of_arm = [], []
        if multitask:
            averaging = self.model.averaging()
            # The best first: the last one keeps which it was.
            checkpoints.insert(0, named(filename="best", monitor=self.model.monitor, mode="max"))
            of_arm = [CostRecord(self.folder.path), TestAhead(), predictions]
        record = CSVLogger(
            self.folder.path,
            name="logs",
            version=next_part(self.folder.path),
            flush_logs_every_n_steps=1,
        )
        snapshot = Snapshot(last, SNAPSHOT_SECONDS)
        return self._trainer(
            [*averaging, watch, *checkpoints, *of_arm, snapshot], [record, *self._wandb()]
        )

    def _train(self, trainer: Trainer, watch: DivergenceWatch, last: Path) -> None:
        """Train, from the last checkpoint on where there is one.

        Raises:
            UserError: If Lightning refuses a setting, or there was no time for a step.
        """
        with (
            _in_one_line(f"{self.cli.stage}.trainer"),
            refuse_lone_image(self.cli.stage, self.data.batch_size),
            watch.explaining(trainer),
        ):
            resumed = last if last.is_file() else None
            trainer.fit(self.model, datamodule=self.data, ckpt_path=resumed)
        if trainer.interrupted:
            raise KeyboardInterrupt
        if trainer.fit_loop.total_batch_idx < 0:
            raise UserError(
                f"{self.cli.stage}.trainer.max_time is {self.config['trainer']['max_time']}: the "
                "training ended before its first step, give it more time."
            )

    def _finish_arm(self, trainer: Trainer, predictions: PredictionsWriter) -> list[Path]:
        """Test the network of the best epoch, and write what it says; return the outputs."""
        self._settle_best(trainer)
        best = self._checkpoint("best")
        metrics = trainer.test(self.model, datamodule=self.data, ckpt_path=best, verbose=False)[0]
        refuse_loss(self.folder.name, metrics["test/loss/principal"], trainer)
        trainer.loggers = []  # the curve has that epoch's validation already
        trainer.validate(self.model, datamodule=self.data, verbose=False)
        found = predictions.write(trainer)
        if found is not None:
            write_json(self.folder.path / "test.json", metrics)
            # What the network needs beside its weights to be asked about any image.
            data = cast(LabelledDataModule, self.data)
            card = Card.of(data, self.config["data"], found)
            card.save(self.folder.path / "classifier.json")
        names = ("predictions.npz", "test.json", "cost.json", "classifier.json")
        kept = [self.checkpoints / "best.ckpt"] if self.config["keep_weights"] else []
        return [*kept, *(self.folder.path / name for name in names)]

    def _settle_best(self, trainer: Trainer) -> None:
        """Have a best epoch, and fit its network anew where the model is one of these."""
        best = self.checkpoints / "best.ckpt"
        if not best.is_file():
            # Steps or time ended before the first validation: its only epoch is the best one.
            trainer.validate(self.model, datamodule=self.data, verbose=False)
            for path in (best, self.checkpoints / "last.ckpt"):
                trainer.save_checkpoint(path)
        if self.model.refitted:
            saved = read_checkpoint(self.folder, "best")
            self.model.load_state_dict(saved["state_dict"])
            self.model.to(trainer.strategy.root_device).refit(cast(LabelledDataModule, self.data))
            trainer.save_checkpoint(best)

    def _predict(self, folder: Path) -> list[Path]:
        if is_global_zero():
            for shard in folder.glob("rank*"):  # of an interrupted run, maybe on other ranks
                shutil.rmtree(shard)
        writer = CodesWriter(folder, self.data, self.model)
        trainer = self._trainer([DivergenceWatch(self.folder.name), writer], [])
        checkpoint = self._checkpoint("last")
        with fitting_weights(checkpoint):
            trainer.predict(
                self.model, datamodule=self.data, ckpt_path=checkpoint, return_predictions=False
            )
        if trainer.interrupted:
            raise KeyboardInterrupt
        # Rank 0 records the shards of all: none may be missing then.
        trainer.strategy.barrier()
        return [*folder.glob("rank*/*.npy"), folder / "codes.json"]

    def _check_files(self, files: str | None) -> None:
        """Refuse images of another run; keep where those of this one lie."""
        check_files(self.cli.run_dir, files)
        if is_global_zero():
            remember_places(self.cli.run_dir, self.config["data"])

    def _checkpoint(self, name: str) -> Path:
        path = checkpoint_path(self.folder, name)
        refuse_without_weights(self.folder, name)
        if not path.is_file():
            raise ArtifactError(
                f"{path} is missing: run `detaux {self.cli.stage} fit` in this run folder first."
            )
        return path

    def _trainer(self, callbacks: list[Any], loggers: list[Logger]) -> Trainer:
        return self.cli.trainer_for(self.folder, callbacks, loggers)

    def _wandb(self) -> list[Logger]:
        tracking = self.config["tracking"]
        if tracking["wandb"] == "disabled":
            return []
        from detaux_pl.training.tracking import wandb_logger

        self.tracked = True
        return [wandb_logger(tracking, self.folder, self.config)]


@contextmanager
def _in_one_line(where: str) -> Iterator[None]:
    """Within it, what Lightning finds wrong with its settings when it knows the data is one line.

    Raises:
        UserError: If it finds something.
    """
    try:
        yield
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        early = str(error).startswith("Early stopping conditioned on metric")
        interval = "val_check_interval" in str(error)
        if isinstance(error, MisconfigurationException) or early or interval:
            raise UserError(f"{where}: {one_line(str(error))}") from error
        raise


def _done(did: bool, folder: StageFolder) -> int:
    if is_global_zero() and not did and not os.environ.get("DETAUX_STAGE"):
        print(f"{folder.path} is complete: nothing to do", file=sys.stderr)
    return 0
