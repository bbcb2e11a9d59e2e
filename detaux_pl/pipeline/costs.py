"""What the jobs of a chain cost: three timed steps of each network, and how many there are."""

from __future__ import annotations

import ctypes
import heapq
import json
import math
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from math import prod
from typing import Any

import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.seed import isolate_rng

from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.pipeline.plan import Plan
from detaux_pl.pipeline.process import Process
from detaux_pl.pipeline.trainings import Training, abreast, at_once, threads_of, trainings
from detaux_pl.settings.build import build, import_room
from detaux_pl.settings.devices import on_cpu
from detaux_pl.training.quiet import quiet
from detaux_pl.training.timing import Pace, time_net

TRIVIAL = 20_000_000
"""Values of images that all trainings see, below which they take less than half a minute."""


class Costs:
    """Seconds of jobs, of one chain or of several that share data and networks.

    Each network is timed once.

    Args:
        n: How many chains there are.
    """

    def __init__(self, n: int = 1) -> None:
        self.trivial = TRIVIAL / n
        self.paces: dict[str, Pace] = {}
        self.data: dict[str, FactorDataModule] = {}
        self.datasets: dict[str, FactorDataset] = {}

    def of(self, chain: Chain, plan: Plan) -> dict[str, dict[str, float]] | None:
        """Tell how long each job takes that is not complete, by stage and job [s].

        Returns:
            None for a chain that is done in a moment, or has no end.
        """
        found: dict[str, list[tuple[Job, list[Training]]]] = {}
        for stage, jobs in plan.items():
            left = [job for job in jobs if not StageFolder(chain.run_dir, job.name).complete]
            found[stage] = [(job, trainings(chain, job)) for job in left]
            if stage == chain.config["until"]:
                break
        every = [each for pending in found.values() for _, made in pending for each in made]
        if sum(self._values(each) for each in every) < self.trivial:
            return None
        costs: dict[str, dict[str, float]] = {}
        for stage, pending in found.items():
            for job, made in pending:
                n = at_once(chain, job)
                threads = threads_of(job, n)
                seconds = [s for each in made for s in [self._seconds(each, threads)] * each.n]
                if n > 1:
                    n = abreast(n, job.config.get("nets") or job.config)
                costs.setdefault(stage, {})[job.name] = schedule(seconds, n)
        total = sum(sum(jobs.values()) for jobs in costs.values())
        return costs if math.isfinite(total) else None

    def forget_data(self) -> None:
        """Let go of the images, which would be held as long as this process lives."""
        self.data.clear()
        self.datasets.clear()
        # glibc keeps what timed networks took: a gigabyte at 224 pixels, for as long as they train.
        with suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)

    def _values(self, training: Training) -> float:
        """Numbers in all the images that trainings see."""
        data = self._data(training)
        seen = self._batches(training) * data.batch_size * training.world
        return training.n * (seen + self._asked(training)) * prod(data.image_shape)

    def _seconds(self, training: Training, threads: int) -> float:
        """How long one training takes [s]."""
        key = f"{threads} {training.key}"
        if key not in self.paces:
            self.paces[key] = self._pace(training, threads)
            pace = self.paces[key]
            # Whoever comes first computes the features; the others find them.
            self.paces[key] = pace._replace(features=0.0)
            return pace.features + self._at(pace, training)
        return self._at(self.paces[key], training)

    def _at(self, pace: Pace, training: Training) -> float:
        asked = self._asked(training) / training.world
        seconds = self._batches(training) * pace.step + asked * pace.image
        if (limit := training.trainer.get("max_time")) is not None and training.trained:
            seconds = min(seconds, Timer(duration=limit).time_remaining() or math.inf)
        return seconds

    def _batches(self, training: Training) -> float:
        """Training batches of one device."""
        trainer = training.trainer
        if not training.trained:
            return 0
        steps, epochs = trainer["max_steps"], trainer["max_epochs"]
        if epochs is None:
            epochs = 1000 if steps == -1 else -1  # as Lightning has it
        left = math.inf if epochs == -1 else max(epochs - training.begun, 1)
        by_epochs = left * self._epoch_length(training)
        by_steps = math.inf if steps == -1 else steps * trainer["accumulate_grad_batches"]
        return min(by_epochs, by_steps)

    def _epoch_length(self, training: Training) -> float:
        """Training batches of one device in an epoch, at least one: others refuse none."""
        data = self._data(training)
        n = data.epoch_length(self._rows(training, "train")) * training.share
        batches = n // (data.batch_size * training.world)
        return limited(batches, training.trainer["limit_train_batches"]) or 1

    def _asked(self, training: Training) -> float:
        """Images that it is asked about: in each validation, and at its end."""
        data, counts = self._data(training), dict[str, int]()
        for split in ("train", "val", "test"):
            counts[split] = len(self._rows(training, split))
        n = {
            "none": 0.0, "all": len(data.dataset), "held_out": counts["val"] + counts["test"],
            "fold": (1 - training.share) * counts["train"],
        }[training.asked]  # fmt: skip
        if training.trained and training.validated:
            epochs = self._batches(training) / self._epoch_length(training)
            n += counts["val"] * min(epochs, 1e6)
        return n

    def _rows(self, training: Training, split: str) -> Any:
        return self._data(training).dataset.rows(split)

    def _data(self, training: Training) -> FactorDataModule:
        """The data module of a training, which knows its splits."""
        spec = training.images
        key = json.dumps(spec, sort_keys=True, default=str)
        if key not in self.data:
            for room in ("data", "losses", "disentangle", "multitask"):
                import_room(room)
            data: FactorDataModule = build(FactorDataModule, spec)
            own = spec["init_args"]
            of_images = json.dumps([own["dataset"], own.get("few_labels")], default=str)
            data.dataset = self.datasets.setdefault(of_images, data.dataset)
            data.describe()
            if not hasattr(data.dataset, "splits"):  # it knows them when it is read
                data.prepare_data()
                data.setup("fit")
            self.data[key] = data
        return self.data[key]

    def _pace(self, training: Training, threads: int) -> Pace:
        if on_cpu({"trainer": training.trainer}):
            return self.time_here(training, threads)
        # An accelerator would be held as long as this process lives.
        request = json.dumps([threads, asdict(training)], default=str)
        with Process(["_time", request], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            said = child.stdout.read()
        if child.returncode:
            raise RuntimeError(f"no step of {training.model['class_path']} could be timed")
        return Pace(*json.loads(said))

    def time_here(self, training: Training, threads: int) -> Pace:
        """Time a network in this process."""
        quiet()
        data = self._data(training)
        data.prepare_data()
        data.setup("fit")
        n = training.n_auxiliary
        sizes = None if n is None else (data.n_classes, *[2] * n)
        kind = MultitaskModel if training.kind == "multitask" else Disentangler
        with isolate_rng():
            torch.manual_seed(0)
            model = build(
                kind, training.model, image_shape=data.image_shape, n_classes=data.n_classes,
                task_sizes=sizes,
            )  # fmt: skip
            return time_net(model, data, training.trainer, threads, sizes)


def time_request(request: str) -> int:
    """Run `detaux _time REQUEST`: time a network in a process of its own, and print its pace."""
    threads, training = json.loads(request)
    print(json.dumps(Costs().time_here(Training(**training), threads)))
    return 0


def limited(n: float, limit: int | float | None) -> float:
    """Return how many of n batches a limit of Lightning's trainer leaves."""
    if limit is None:
        return n
    return n * limit if isinstance(limit, float) else min(n, limit)


def schedule(seconds: Iterable[float], n_at_once: int) -> float:
    """Return how long pieces of work take, of which so many are done at once.

    Example:
        >>> schedule([3.0, 3.0, 3.0], 2)
        6.0
    """
    ends = [0.0] * max(n_at_once, 1)
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)
