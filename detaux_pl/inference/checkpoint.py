"""The one way to open a checkpoint."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.stage import StageFolder, redo_name


def checkpoint_path(folder: StageFolder, name: str) -> Path:
    """Return where a stage keeps a checkpoint, `last` or `best`."""
    return folder.path / "checkpoints" / f"{name}.ckpt"


def is_output(folder: StageFolder, name: str) -> bool:
    """Whether a checkpoint, `last` or `best`, is among what a stage left when it was complete."""
    path = checkpoint_path(folder, name).relative_to(folder.path).as_posix()
    return folder.manifest is not None and path in folder.manifest["outputs"]


def refuse_without_weights(folder: StageFolder, name: str) -> None:
    """Refuse a training that kept no weights.

    Args:
        folder: The stage.
        name: `last` or `best`.

    Raises:
        ArtifactError: If it is done and this checkpoint is none of what it left.
    """
    if folder.complete and not is_output(folder, name):
        raise ArtifactError(
            f"{folder.path} kept its figures and no weights, as controls do: list the arm among "
            f"--baselines, with its `auxiliary`, and --redo {redo_name(folder.name)} trains it "
            "again."
        )


def read_checkpoint(folder: StageFolder, name: str) -> dict[str, Any]:
    """Read a checkpoint that is known to be whole.

    That of a complete stage is held against the digest in its manifest, that of an unfinished
    one against the checksums inside it. It runs no code that a file may hold.

    Args:
        folder: The stage.
        name: `last` or `best`.

    Returns:
        What Lightning saved, on the CPU.

    Raises:
        ArtifactError: If the file is gone, damaged, was changed, or is no checkpoint.
    """
    refuse_without_weights(folder, name)
    path = folder.output(checkpoint_path(folder, name).relative_to(folder.path).as_posix())
    try:
        if not folder.complete:
            _check_sums(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or not isinstance(saved.get("state_dict"), dict):
            raise ValueError("no state_dict")
    except Exception as error:  # torch.load has no error of its own for a damaged file
        remedy = (
            f"--redo {redo_name(folder.name)} makes the stage again"
            if folder.complete
            else "delete it to begin the stage anew"
        )
        raise ArtifactError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): {remedy}."
        ) from None
    return saved


@contextmanager
def fitting_weights(path: Path) -> Iterator[None]:
    """Say in one line that a checkpoint is of another model than the one that takes it."""
    try:
        yield
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise ArtifactError(
            f"{path} holds the weights of another model than the settings say: give those that "
            "it was trained with, as in the config.yaml beside it."
        ) from error


def _check_sums(path: Path) -> None:
    """Compare a file with its own checksums, at which torch does not look."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(damaged)
