"""The work of a stage, done once: lock, key, manifest, and who of several ranks writes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detaux_pl.artifacts.errors import ArtifactError, DiscoveryError, Diverged, UserError
from detaux_pl.artifacts.exit_codes import USER_ERROR, Stopped
from detaux_pl.artifacts.files import sweep_up
from detaux_pl.artifacts.lock import file_lock, run_lock
from detaux_pl.artifacts.stage import StageFolder


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
        Diverged: If its training did, which the folder says from then on.
        ArtifactError: If the folder is in use, was begun with other settings, holds outputs that
            were changed, or a stage upstream is missing or has another result.
    """
    if not is_global_zero():
        # The manifest is rank 0's; the other ranks only take part in the work, if there is any.
        if folder.complete and not redo:
            return False
        list(work())
        return True
    with _held(folder) as place:
        if place is not None and rank_and_world()[1] == 1:  # another rank may be writing
            sweep_up(place)
        before = [StageFolder(folder.run_dir, name) for name in upstream]
        for stage in before:
            stage.verify()
            stage.check_inputs()
        if redo and folder.path.exists():
            shutil.rmtree(folder.path)
        keys = {stage.name: manifest["key"] for stage in before if (manifest := stage.manifest)}
        folder.begin_anew_if_diverged(settings, keys)
        folder.check(settings, keys)
        folder.check_inputs()
        if folder.complete:
            folder.verify()
            return False
        anew = folder.manifest is None
        folder.begin(settings, keys, {stage.name: stage.digest for stage in before})
        started = time.monotonic()
        try:
            outputs = list(work())
        except Diverged as end:
            folder.give_up(str(end), end.since)
            raise
        except (UserError, Stopped) as refused:
            # What must be mended first is no other run's: it would be in the way of the mended one.
            if anew and not isinstance(refused, DiscoveryError) and _is_refusal(refused):
                _forget_begun(folder.path)
            raise
        folder.finish(outputs, time.monotonic() - started)
        return True


@contextmanager
def _held(folder: StageFolder) -> Iterator[Path | None]:
    """Hold what a stage writes to: the run folder, or of an arm, beside which others run, its own.

    Yields:
        What is held; None where the planner holds the run folder.

    Raises:
        ArtifactError: If another process works there.
    """
    if not folder.name.startswith("multitask/"):
        with run_lock(folder.run_dir) as lock:
            yield None if lock is None else folder.run_dir
        return
    with run_lock(folder.run_dir, shared=True) as lock:
        if lock is None:
            yield None
            return
        with file_lock(folder.path.with_name(f".{folder.path.name}.lock")) as mine:
            if mine is None:
                raise ArtifactError(
                    f"{folder.path} is in use by another process: wait for it, or stop it."
                )
            yield folder.path


_OF_BEGINNING = {"stage.json", "config.yaml", "nets.json"}
"""Files that say what is to be done, and hold nothing that took time."""


def _is_refusal(error: Exception) -> bool:
    return not isinstance(error, Stopped) or error.code == USER_ERROR


def _forget_begun(folder: Path) -> None:
    """Remove a stage that was refused, unless it holds work that can be gone on with."""
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    if all(path.name in _OF_BEGINNING for path in files):
        shutil.rmtree(folder)


def rank_and_world() -> tuple[int, int]:
    """Rank of this process among those that torchrun or SLURM started, and their number."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ:
            return int(os.environ[rank]), int(os.environ.get(world, "1"))
    return 0, 1


def is_global_zero() -> bool:
    """Whether this process is the first rank, as far as its environment tells."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))
