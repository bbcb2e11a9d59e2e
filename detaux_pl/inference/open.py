"""A classifier from what lies in a folder: a run or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from detaux_pl.artifacts.errors import UserError
from detaux_pl.inference.classifier import Classifier
from detaux_pl.inference.run import Run, load


def open_classifier(
    folder: Path, arm: str | None = None, seeds: Sequence[int] | None = None
) -> Classifier:
    """Open the networks of a run folder or of a bundle.

    Args:
        folder: The folder.
        arm: Arm of a run; None for the main one.
        seeds: Seeds of a run; None for all.

    Raises:
        ArtifactError: If it holds neither, or what is asked for is not there.
        UserError: If an arm or seeds are asked for of a bundle.
    """
    opened = load(folder)
    if isinstance(opened, Run):
        return opened.classifier(arm, seeds)
    if arm is not None or seeds is not None:
        about = opened.about
        raise UserError(
            f"{folder} is a bundle, of {about['arm']!r} with seeds {about['seeds']}, which "
            "answer together: leave --arm and --seeds out, or give the run."
        )
    return opened.classifier()


def pick_device(accelerator: str) -> torch.device:
    """Return the device that a word stands for.

    Args:
        accelerator: `auto` for the accelerator that torch finds, if any; `cpu`; `gpu`; or what
            torch calls it, such as `cuda`, `cuda:1` or `mps`.

    Raises:
        UserError: If there is no such device here.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator == "auto":
        return torch.device("cpu") if there is None else there
    if accelerator == "gpu" and there is not None:
        return there
    try:
        device = torch.device(accelerator)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        have = "cpu" if there is None else f"cpu, {there.type}"
        raise UserError(
            f"--accelerator is {accelerator!r}, which torch does not have here: give auto or one "
            f"of {have}."
        ) from None
    return device
