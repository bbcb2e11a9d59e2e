"""What the stages of a chain train: which networks, how many of each, and how many at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import comb
from pydoc import locate
from typing import Any, Literal

import torch

from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.settings.build import Spec
from detaux_pl.settings.devices import n_devices, on_cpu
from detaux_pl.settings.names import needs_labels
from detaux_pl.training.records import epochs_recorded

Part = Literal["all", "held_out", "fold", "none"]


@dataclass(frozen=True)
class Training:
    """Trainings that are alike.

    Args:
        kind: `disentangle` or `multitask`: of what base class the network is.
        model: What it is built from.
        data: What its data module is built from.
        trainer: Settings of its trainer.
        n: How many there are.
        trained: Whether it is trained; else it is only asked about images.
        n_auxiliary: Number of auxiliary tasks; None for a disentangler.
        share: Share of the training images that it sees.
        asked: Which images it is asked about at its end: `all`, `held_out` (validation and test),
            or `fold`, those that it did not see.
        validated: Whether each epoch ends with a validation.
        world: Number of devices.
        begun: How many epochs of it are done.
    """

    kind: str
    model: Spec
    data: Spec
    trainer: Mapping[str, Any]
    n: int = 1
    trained: bool = True
    n_auxiliary: int | None = None
    share: float = 1.0
    asked: Part = "none"
    validated: bool = True
    world: int = 1
    begun: int = 0

    @property
    def key(self) -> str:
        """What tells it from trainings of another pace: not rates, weights and seeds."""
        trainer = {name: self.trainer.get(name) for name in ("accelerator", "precision")}
        said = [self.kind, _unweighted(self.model), self.images, trainer, self.n_auxiliary]
        return json.dumps(said, sort_keys=True, default=str)

    @property
    def images(self) -> Spec:
        """What a data module is built from that gives the same images, with other labels."""
        given = self.data.get("init_args", {})
        plain = {"labels": None, "auxiliary": "discovered", "seed": 0, "num_workers": 0}
        own = {name: value for name, value in plain.items() if name in given}
        return {"class_path": self.data["class_path"], "init_args": {**given, **own}}


def _unweighted(value: Any) -> Any:
    """Leave numbers out that are no whole ones: they hardly change what is computed."""
    if isinstance(value, Mapping):
        return {name: _unweighted(each) for name, each in value.items()}
    return None if isinstance(value, float) else value


def trainings(chain: Chain, job: Job) -> list[Training]:
    """Say what a job trains, as far as it is not there yet; what comes of races is not known."""
    config = job.config
    if job.command[0] in ("disentangle", "multitask"):
        alone = Training(
            job.command[0], config["model"], config["data"], config["trainer"],
            world=n_devices(config["trainer"]), begun=epochs_recorded(chain.run_dir / job.name),
        )  # fmt: skip
        if job.command == ("disentangle", "predict"):
            return [replace(alone, trained=False, asked="all")]
        if job.command[0] == "disentangle":
            return [alone]
        return [replace(alone, n_auxiliary=_n_auxiliary(chain, config), asked="held_out")]
    if job.command[0] not in ("cluster", "refine") or config["nets"] is None:
        return []
    nets = config["nets"]
    folds, found = nets["folds"], list[Training]()

    def add(n: int, model: str, n_auxiliary: int, without: int = 1, last: bool = True) -> None:
        found.append(
            Training(
                "multitask", nets[model], nets["data"], nets["trainer"], n,
                n_auxiliary=n_auxiliary, share=1 - without / folds, validated=False,
                asked="all" if last and job.command[0] == "refine" else "fold",
            )
        )  # fmt: skip

    if job.command[0] == "refine":
        rounds = config["rounds"]
        n_tasks = chain.every[config["discovery"]]["cluster"]["n_tasks"]
        for k in range(rounds):
            add(comb(folds, rounds - k), "model", n_tasks, rounds - k, k == rounds - 1)
    elif config["select"] is not None:
        select = config["select"]["init_args"]
        again = select["confirmations"] * folds
        add(folds + again, "single", 0)
        add(select["tries"] * folds, "model", 1)
        add(again, "model", config["n_tasks"])
        if select["uses"]:
            add(again, "single", 0)
            add(2 * again, "model", 1)
            add(2 * again, "balance", 1)
    return _without(found, len([*(chain.run_dir / job.name / "nets").rglob("round*.npz")]))


def _n_auxiliary(chain: Chain, config: Mapping[str, Any]) -> int:
    """Number of auxiliary tasks that an arm learns."""
    if needs_labels(config):
        n: int = chain.every[config["discovery"]]["cluster"]["n_tasks"]
        return n
    model: Any = locate(config["model"]["class_path"])
    auxiliary = config["data"]["init_args"].get("auxiliary")
    if not model.uses_auxiliary:
        return 0
    return len(auxiliary) if isinstance(auxiliary, list) else 1


def _without(found: list[Training], n: int) -> list[Training]:
    """Leave out as many as are there already, from the first on."""
    left = []
    for each in found:
        there = min(n, each.n)
        n -= there
        left += [replace(each, n=each.n - there)] if each.n > there else []
    return left


def at_once(chain: Chain, job: Job) -> int:
    """How many trainings of a stage run at once, or how many nets of a job.

    On the CPU it is one per core, which small nets use best.
    """
    config = job.config
    if job.command[0] in ("cluster", "refine"):
        if config["nets"] is None:
            return 1
        device = torch.accelerator.device_count
        n = os.cpu_count() if on_cpu(config["nets"]) else device()
        return int(config["jobs"] or n or 1)
    if job.command != ("multitask", "fit") or job.alone:
        return 1
    if chain.config["jobs"] is not None:
        return int(chain.config["jobs"])
    return (os.cpu_count() or 1) if on_cpu(config) else 1


def abreast(n_at_once: int, config: Mapping[str, Any]) -> int:
    """How many of them advance at a time: more than a CPU has cores only take turns.

    Args:
        n_at_once: How many run at once.
        config: What has the trainer of one of them.
    """
    return min(n_at_once, os.cpu_count() or n_at_once) if on_cpu(config) else n_at_once


def threads_of(job: Job, n_at_once: int) -> int:
    """How many threads each of them has on a CPU."""
    if job.command[0] in ("cluster", "refine"):
        return 1
    return torch.get_num_threads() if n_at_once == 1 else max(1, (os.cpu_count() or 1) // n_at_once)
