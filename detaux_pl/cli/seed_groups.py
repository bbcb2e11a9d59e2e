"""Runs that a command puts in one table: the seeds of each group."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.stage import StageFolder

T = TypeVar("T")

GROUPS = (
    "Run folders named seed<k> are the seeds of one group, named after the folder that holds them; "
    "any other run folder is a group of its own."
)
"""How runs are grouped, for the help of a command."""


def read_groups(run_dirs: Sequence[Path], read: Callable[[Path], T]) -> dict[str, dict[Path, T]]:
    """Read run folders, and group them over their seeds.

    Args:
        run_dirs: The run folders.
        read: Reads one, or refuses it.

    Returns:
        What was read, by group and run folder, in the order given.

    Raises:
        UserError: If a run is given twice, or two groups have one name.
    """
    groups: dict[str, dict[Path, T]] = {}
    seen: set[Path] = set()
    single: set[str] = set()
    for run_dir in run_dirs:
        here = run_dir.resolve()
        if here in seen:
            raise UserError(f"{run_dir} is given twice: give each run once.")
        seen.add(here)
        content = read(run_dir)
        seed = re.fullmatch(r"seed\d+", here.name) is not None
        name = here.parent.name if seed else here.name
        if name in single or (not seed and name in groups):
            raise UserError(f"two groups are named {name!r}, one of them of {run_dir}: rename it.")
        if not seed:
            single.add(name)
        groups.setdefault(name, {})[run_dir] = content
    return groups


def read_evaluated(run_dir: Path, file: str, what: str, read: Callable[[Path], T]) -> T:
    """Read what the evaluation of a run wrote.

    Args:
        run_dir: The run folder.
        file: Name of the file in the stage's folder.
        what: What it holds, in words.
        read: Reads it from the run folder.

    Raises:
        ArtifactError: If the stage is not finished, did not write it, or it was changed since.
    """
    folder = StageFolder(run_dir, "evaluate")
    command = f"detaux evaluate --run_dir {run_dir}"
    if not folder.complete:
        raise ArtifactError(f"{run_dir} has no finished {what}: run `{command}`.")
    folder.verify()
    if not (folder.path / file).is_file():
        raise ArtifactError(
            f"{run_dir} was evaluated without {what}: run `{command} --redo evaluate`."
        )
    return read(run_dir)
