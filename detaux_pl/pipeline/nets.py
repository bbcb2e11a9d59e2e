"""The nets of cross-fits: what they are built from, and the processes that share them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import TERMINATED, Stopped
from detaux_pl.artifacts.files import read_kind, sha256_file, write_json
from detaux_pl.artifacts.labels import load_tasks
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.artifacts.run_stage import rank_and_world
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.inference.run import check_files
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.cross_fit import CrossFit, Net
from detaux_pl.pipeline.discovery_stage import NetsConfig
from detaux_pl.pipeline.workers import Workers, answer
from detaux_pl.settings.build import Spec, build, import_room
from detaux_pl.settings.devices import on_cpu
from detaux_pl.settings.keys import nets_settings
from detaux_pl.settings.parser import explain
from detaux_pl.training.quiet import quiet

PLAN = "nets.json"

Work = tuple[str, Net]
"""A net, and the cross-fit that it is of."""


class CrossFitPlan(TypedDict):
    """What a cross-fit is of."""

    labels: str | None
    seed: int
    model: NotRequired[str]


class NetsPlan(NetsConfig):
    """The content of `nets.json`, see `Nets`."""

    balance: NotRequired[Spec]
    rounds: int
    replace: bool
    fits: dict[str, CrossFitPlan]


class Nets:
    """The nets of several cross-fits, each with a file of its own in one folder.

    Its file `nets.json` says what they are:

    - `model`, `single`: class and arguments of the multi-task net, and of that of the principal
      task alone; `data`: those of the data module;
    - `trainer`: settings of Lightning's trainer; `folds`, `rounds`;
    - `replace`: whether what the nets say is to replace the labels: those of noise are left out
      then, and validation and test images are asked about too;
    - `fits`: by name, `labels` (folder of the labels; None for the principal task alone), `seed`,
      and `model` for a net that is neither of the two, such as `balance`.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        quiet()
        for room in ("data", "multitask"):
            import_room(room)
        self.folder = folder
        self.plan = read_kind(folder / PLAN, NetsPlan, "begin the stage anew")
        with _settings_in_one_line("data"):
            self.data: LabelledDataModule = build(LabelledDataModule, self.plan["data"])
        self.data.prepare_data()
        self.data.setup("fit")
        n = len(self.data.dataset.rows("train"))
        refuse_few(n, self.plan["folds"], self.plan["rounds"], self.data.batch_size)
        self.fits = {name: self._fit(name, **fit) for name, fit in self.plan["fits"].items()}

    def _fit(self, name: str, labels: str | None, seed: int, model: str = "") -> CrossFit:
        dataset = self.data.dataset
        given = [] if labels is None else load_tasks(Path(labels))
        tasks = [task.without_noise() if self.plan["replace"] else task for task in given]
        targets = [dataset.factor(dataset.principal), *(task.of(dataset.ids) for task in tasks)]
        return CrossFit(
            folder=self.folder / name,
            targets=np.stack(targets, axis=1),
            task_sizes=(dataset.n_classes, *(task.n_classes for task in tasks)),
            train=dataset.rows("train"),
            rest=np.flatnonzero((dataset.splits != 0) & self.plan["replace"]),
            n_folds=self.plan["folds"],
            rounds=self.plan["rounds"],
            seed=seed,
        )

    def missing(self, round: int) -> list[Work]:
        """Nets of a round that have no file yet."""
        return [(name, net) for name, fit in self.fits.items() for net in fit.missing(round)]

    @property
    def n_nets(self) -> int:
        """Number of nets of all cross-fits."""
        return sum(len(fit.nets) for fit in self.fits.values())

    @property
    def n_missing(self) -> int:
        """Number of them that have no file yet."""
        return sum(len(self.missing(round)) for round in range(self.plan["rounds"]))

    def train(self, work: Work, device: int = 0) -> None:
        """Train a net on one device.

        Raises:
            Stopped: If the process was asked to end.
        """
        devices: int | list[int] = 1
        if not on_cpu(self.plan):
            if not (there := torch.accelerator.device_count()):
                raise UserError(
                    f"the nets' trainer.accelerator is {self.plan['trainer']['accelerator']!r}, "
                    "and this machine has none: give cpu or auto."
                )
            devices = [device % there]
        trainer = {**self.plan["trainer"], "devices": devices}
        name, net = work
        try:
            build_net = partial(self._build, self.plan["fits"][name].get("model"))
            self.fits[name].fit(net, self.data, build_net, trainer)
        except SIGTERMException:
            raise Stopped(TERMINATED) from None

    def _build(self, model: str | None, sizes: tuple[int, ...]) -> MultitaskModel:
        config = self.plan["single" if len(sizes) == 1 else "model"]
        if model is not None:
            config = self.plan[model]  # type: ignore[literal-required]
        shape = self.data.image_shape
        with _settings_in_one_line(f"model, of {len(sizes)} task(s)"):
            net: MultitaskModel = build(MultitaskModel, config, image_shape=shape, task_sizes=sizes)
        return net


def refuse_few(n: int, folds: int, rounds: int, batch_size: int) -> None:
    """Refuse folds that leave a net less than one batch to be trained on.

    Args:
        n: Number of training images.
        folds: Into how many parts they are dealt.
        rounds: How many parts a net may be left without.
        batch_size: Training batch of a net.

    Raises:
        UserError: If they do.
    """
    fewest = n - rounds * -(-n // folds)
    if fewest < batch_size:
        raise UserError(
            f"with {folds} folds and {rounds} round(s) a net is trained on {max(fewest, 0)} of "
            f"{n} images, fewer than one batch of {batch_size}: lower multitask.data.batch_size "
            "or the rounds, or take other folds (nets.folds)."
        )


@contextmanager
def _settings_in_one_line(what: str) -> Iterator[None]:
    """Say in one line what is wrong with settings of nets that something is built from."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UserError(f"nets.{what}: {explain(error)}") from error


def run_nets(run_dir: Path, folder: Path, plan: dict[str, Any], workers: Workers | None) -> Nets:
    """Train the nets that have no file yet; those that were trained before stay.

    Under torchrun or SLURM every rank calls this, trains its share, and then what is still
    missing. Otherwise workers of our own share them. Nets lie in a folder that their plan and
    labels name: what a rank that comes too late or was given other settings leaves is no part of
    it.

    Args:
        run_dir: Folder of the run.
        folder: Folder of the nets of the stage.
        plan: Content of `nets.json`, see `Nets`.
        workers: The processes that train them; None for this one.

    Returns:
        The nets, all trained.

    Raises:
        ArtifactError: If the data files are not those that the disentangler was trained on.
        Stopped: If a process failed or was stopped.
    """
    folder = folder / _digest(plan)
    rank, world = rank_and_world()
    # All ranks write the same.
    write_json(folder / PLAN, plan)
    nets = Nets(folder)
    check_files(run_dir, nets.data.dataset.fingerprint())
    total, shown = nets.n_nets, nets.n_nets - nets.n_missing
    with progress_bar("nets", total, shown) as advance:

        def show() -> None:
            nonlocal shown
            done = total - nets.n_missing
            advance(done - shown)
            shown = done

        for round in range(plan["rounds"]):
            left = nets.missing(round)
            if workers is not None:
                workers([(str(folder), *work) for work in left], show)
                continue
            # A rank that has done its share takes what others have not begun, from their end.
            mine = left[rank::world]
            for work in [*mine, *(work for work in reversed(left) if work not in mine)]:
                nets.train(work, _local_rank())
                show()
    return nets


def work(args: Sequence[str]) -> int:
    """Run `detaux _worker DEVICE`: be one of the processes that nets are trained in."""
    open_nets = cache(lambda folder: Nets(Path(folder)))

    def train(given: tuple[str, str, tuple[int, list[int]]]) -> None:
        folder, name, (round, without) = given
        open_nets(folder).train((name, Net(round, tuple(without))), int(args[0]))

    try:
        answer(train)
    except Stopped as end:
        return end.code
    return 0


def _digest(plan: dict[str, Any]) -> str:
    """Name a plan by all that the nets follow from."""
    fits = {
        name: {**fit, "labels": fit["labels"] and _sha256_labels(Path(fit["labels"]))}
        for name, fit in plan["fits"].items()
    }
    text = json.dumps({**(nets_settings(plan) or {}), "fits": fits}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sha256_labels(folder: Path) -> list[str]:
    return [sha256_file(path) for path in sorted(folder.glob("labels*.npz"))]


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
