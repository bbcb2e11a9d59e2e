"""What the stages of a run are called: names of folders, which the settings tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pydoc import locate
from typing import Any

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.stage import redo_name


def arm_name(class_path: str) -> str:
    """Return the snake-case name of a class: `HardParameterSharing` -> hard_parameter_sharing."""
    parts = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return re.sub(parts, "_", class_path.rsplit(".", 1)[-1]).lower()


def stage_folder(stage: str, config: dict[str, Any]) -> str:
    """Return the path of a trainable stage inside the run folder."""
    if stage == "disentangle":
        return discovery_folder(stage, config["discovery"])
    arm = config["arm"] or arm_name(config["model"]["class_path"])
    if not re.fullmatch(r"[\w-]+", arm):
        raise UserError(f"arm is {arm!r}: the name of a folder, of letters, digits, - and _.")
    return f"multitask/{arm}/seed{config['seed_everything']}"


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
