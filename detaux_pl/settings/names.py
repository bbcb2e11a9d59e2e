"""What the stages of a run are called, and the folders they are in, which the settings tell."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pydoc import locate
from typing import Any

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import read_yaml
from detaux_pl.artifacts.stage import redo_name

_LONGEST = 200
"""Longest name that a folder has as it is [bytes]: file systems take 255."""


def arm_name(class_path: str) -> str:
    """Return the snake-case name of a class: `HardParameterSharing` -> hard_parameter_sharing."""
    parts = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return re.sub(parts, "_", class_path.rsplit(".", 1)[-1]).lower()


def stage_folder(stage: str, config: dict[str, Any]) -> str:
    """Return the path of a trainable stage inside the run folder."""
    if stage == "disentangle":
        return discovery_folder(stage, config["discovery"])
    arm = config["arm"] or arm_name(config["model"]["class_path"])
    return f"{arm_folder(arm)}/seed{config['seed_everything']}"


def safe_name(name: str) -> str:
    """Return the name of the folder of what the user calls so, the same in every run.

    Letters, digits, - and _ stay as they are; any other name becomes a readable part of it with a
    digest of the whole: `hair color` -> `hair_color-9d4a5238`.

    Raises:
        UserError: If a name is empty or holds what cannot be shown.
    """
    if not name.strip() or not name.isprintable():
        raise UserError(f"an arm or a discovery is named {name!r}: give letters that can be shown.")
    if re.fullmatch(r"[\w-]+", name) and len(name.encode()) <= _LONGEST:
        return name
    readable = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:40] or "name"
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def arm_folder(arm: str) -> str:
    """Return the path of an arm inside the run folder; its seeds are folders in it."""
    return f"multitask/{safe_name(arm)}"


def arm_folders(run_dir: Path) -> dict[str, Path]:
    """Folders of the arms that a run folder holds, by what the arms are called."""
    folders = [path for path in sorted((run_dir / "multitask").glob("*")) if path.is_dir()]
    return {_called(path, "seed*", "arm"): path for path in folders}


def discovery_folders(run_dir: Path) -> dict[str, Path]:
    """Folders of the further discoveries that a run folder holds, by what they are called."""
    folders = [path for path in sorted((run_dir / "discoveries").glob("*")) if path.is_dir()]
    return {_called(path, "*", "discovery"): path for path in folders}


def _called(folder: Path, stages: str, key: str) -> str:
    """Return the name that a folder stands for: its own, unless a config in it says another."""
    if re.search(r"-[0-9a-f]{8}\Z", folder.name):
        for path in sorted(folder.glob(f"{stages}/config.yaml")):
            with suppress(ArtifactError, UserError):
                name = read_yaml(path).get(key)
                if isinstance(name, str) and safe_name(name) == folder.name:
                    return name
    return folder.name


def discovery_folder(stage: str, discovery: str | None) -> str:
    """Return the path of a stage of the main discovery (None) or of a further one."""
    return stage if discovery is None else f"discoveries/{safe_name(discovery)}/{stage}"


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


def wants_redo(redo: str | None, name: str) -> bool:
    """Whether `--redo` names the stage that a command runs.

    Raises:
        UserError: If it names another one.
    """
    if redo is not None and redo not in (name, redo_name(name), redo_name(name).split("/")[-1]):
        raise UserError(f"--redo is {redo!r}, but this command runs {name!r}.")
    return redo is not None
