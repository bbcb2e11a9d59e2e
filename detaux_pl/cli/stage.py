"""What every stage does around its work: settings, key, lock, manifest."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from detaux_pl.artifacts.errors import DiscoveryError, UserError
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.lock import run_lock
from detaux_pl.artifacts.stage import StageFolder, redo_name
from detaux_pl.cli.main import NOTHING_FOUND, stopped
from detaux_pl.cli.process import Stopped

TRAINER_SETTINGS = (
    "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "callbacks", "precision",
    "gradient_clip_val",
    "gradient_clip_algorithm", "accumulate_grad_batches", "limit_train_batches",
    "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches",
    "check_val_every_n_epoch", "val_check_interval", "devices", "num_nodes", "sync_batchnorm",
)  # fmt: skip
"""What of the trainer changes the result. An allow-list: with a deny-list, every finished run
would be stale at the next release of Lightning that adds an option."""

_PLACES = {
    "root", "path", "cache_dir", "cached", "in_memory", "num_workers", "device_resident",
    "eval_batch_size", "labels", "download",
}  # fmt: skip
"""Where the data lie and how they are read: nothing that changes the result."""


def trainable_settings(config: Mapping[str, Any], files: str | None = None) -> dict[str, Any]:
    """Pick from a resolved stage config what changes the result of its training.

    Args:
        config: The config.
        files: Fingerprint of the user's own files, where no stage upstream has it in its key.
    """
    return {
        **({} if files is None else {"files": files}),
        "seed": config["seed_everything"],
        "model": config["model"],
        "data": _without_places(config["data"]),
        "trainer": {name: config["trainer"][name] for name in TRAINER_SETTINGS},
    }


def codes_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what changes the codes beside the trained disentangler: nothing but the images."""
    return {"data": _without_places(config["data"])}


def cluster_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what changes the auxiliary labels."""
    apart = ["run_dir", "redo", "discovery", "codes", "jobs"]
    # Without a selection no net is trained.
    apart += ["select", "nets"] if config["select"] is None else []
    settings = {k: _without_places(v) for k, v in config.items() if k not in apart}
    return settings | ({"nets": nets_settings(config["nets"])} if "nets" in settings else {})


def refine_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what changes the refined labels."""
    nets = nets_settings(config["nets"])
    return {"rounds": config["rounds"], "seed": config["seed"], "nets": nets}


def nets_settings(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Pick what changes what nets say: not where they are trained."""
    if config is None:
        return None
    trainer = {k: v for k, v in config["trainer"].items() if k != "accelerator"}
    return {**_without_places(config), "trainer": trainer}


def refuse_nets(config: Mapping[str, Any] | None) -> None:
    """Refuse settings of nets that `detaux fit` did not write.

    Raises:
        UserError: If something is missing.
    """
    missing = {"model", "single", "data", "trainer", "folds"} - (config or {}).keys()
    if config is not None and missing:
        raise UserError(
            f"nets lack {', '.join(sorted(missing))}: take the config.yaml that `detaux fit` wrote "
            "to the folder of the stage."
        )


def evaluate_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what changes the probes and metrics."""
    return {name: config[name] for name in ("tasks", "max_samples", "seed", "metrics")}


def run_stage(
    folder: StageFolder,
    settings: Mapping[str, Any],
    upstream: Sequence[str],
    work: Callable[[], Iterable[Path]],
    redo: bool = False,
) -> bool:
    """Do the work of a stage unless it is done, and record it.

    Args:
        folder: Folder of the stage.
        settings: The settings that change the result.
        upstream: Names of the stages whose outputs are read.
        work: Does it and returns the files that are the stage's outputs.
        redo: Begin anew, whatever the folder holds.

    Returns:
        Whether there was anything to do.

    Raises:
        ArtifactError: If the folder is in use, was begun with other settings, holds outputs that
            were changed, or a stage upstream is missing or has another result.
    """
    if not is_global_zero():
        # The manifest is rank 0's; the other ranks only take part in the work, if there is any.
        if folder.complete and not redo:
            return False
        list(work())
        return True
    with run_lock(folder.run_dir):
        before = [StageFolder(folder.run_dir, name) for name in upstream]
        for stage in before:
            stage.verify()
            stage.check_inputs()
        if redo and folder.path.exists():
            shutil.rmtree(folder.path)
        keys = {stage.name: str((stage.manifest or {})["key"]) for stage in before}
        folder.check(settings, keys)
        folder.check_inputs()
        if folder.complete:
            folder.verify()
            return False
        folder.begin(settings, keys, {stage.name: stage.digest for stage in before})
        started = time.monotonic()
        outputs = list(work())
        folder.finish(outputs, time.monotonic() - started)
        return True


def run_discovery_stage(
    folder: StageFolder,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    upstream: Sequence[str],
    work: Callable[[], Iterable[Path]],
) -> int:
    """Do the work of `cluster` or `refine` as `run_stage` does, and keep its configuration.

    Args:
        folder: Folder of the stage.
        config: The resolved configuration.
        settings: What of it changes the result.
        upstream: Names of the stages whose outputs are read.
        work: Does it and returns the files that are the stage's outputs.

    Returns:
        The exit code: that of nothing found, or of what stopped it.

    Raises:
        UserError: If several ranks are to begin it anew: one would remove what another writes.
    """
    redo = wants_redo(config["redo"], folder.name)
    if redo and rank_and_world()[1] > 1:
        raise UserError(
            "--redo is given to several ranks, of which one would remove what another has begun: "
            "run the command once by itself with --redo, or delete the folder of the stage."
        )

    def keep_and_work() -> list[Path]:
        path = folder.path / "config.yaml"
        if is_global_zero():  # first, or it would be lost with a --redo that is killed
            write_text(path, yaml.safe_dump({**config, "redo": None}, sort_keys=False))
        return [path, *work()]

    try:
        run_stage(folder, settings, upstream, keep_and_work, redo)
    except Stopped as end:
        return stopped(end.code) if end.code > 128 else end.code
    except DiscoveryError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return NOTHING_FOUND
    return 0


def discovery_folder(stage: str, discovery: str | None) -> str:
    """Return the name of a stage of the main discovery (None) or of a further one.

    Raises:
        UserError: If the discovery's name is not that of a folder.
    """
    if discovery is None:
        return stage
    if not re.fullmatch(r"[\w-]+", discovery):
        raise UserError(f"a discovery is named {discovery!r}: take letters, digits, - and _.")
    return f"discoveries/{discovery}/{stage}"


def wants_redo(redo: str | None, name: str) -> bool:
    """Whether `--redo` names the stage that a command runs.

    Raises:
        UserError: If it names another one.
    """
    if redo is not None and redo not in (name, redo_name(name), redo_name(name).split("/")[-1]):
        raise UserError(f"--redo is {redo!r}, but this command runs {name!r}.")
    return redo is not None


def on_cpu(config: Mapping[str, Any]) -> bool:
    """Whether the trainer of a configuration runs on the CPU."""
    accelerator = config["trainer"]["accelerator"]
    if accelerator != "auto":
        return bool(accelerator == "cpu")
    import torch

    return not torch.accelerator.is_available()


def rank_and_world() -> tuple[int, int]:
    """Rank of this process among those that torchrun or SLURM started, and their number."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ:
            return int(os.environ[rank]), int(os.environ.get(world, "1"))
    return 0, 1


def is_global_zero() -> bool:
    """Whether this process is the first rank, as far as its environment tells."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def import_room(room: str) -> None:
    """Import every module of a room, so that its classes are known by their short names."""
    package = importlib.import_module(f"detaux_pl.{room}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_places(v) for k, v in value.items() if k not in _PLACES}
    return value
