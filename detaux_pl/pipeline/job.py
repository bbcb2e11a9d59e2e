"""What is planned: the settings of a chain, and the jobs that they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One stage folder and the command that fills it.

    Args:
        name: Path of the stage inside the run folder.
        command: Words of the command; the config follows.
        config: Resolved configuration of the stage.
        settings: What of it changes the result.
        upstream: Names of the stages whose outputs it reads.
        alone: Whether it needs a process of its own, as several devices do.
        derived: Whether it is made again, and not refused, when what it shows has changed.
    """

    name: str
    command: tuple[str, ...]
    config: dict[str, Any]
    settings: dict[str, Any]
    upstream: tuple[str, ...]
    alone: bool = False
    derived: bool = False


@dataclass(frozen=True)
class Chain:
    """The resolved configuration of all stages.

    Args:
        config: Every setting.
        arms: Of each arm, the stage configuration for every seed.
        discoveries: Of each further discovery, the configuration of every stage that it has.
        source: The settings as YAML that can be given again.
        files: Fingerprint of the user's own data files, once it is known.
        without: Names of the stages that are left out, which nothing that is asked for reads.
    """

    config: dict[str, Any]
    arms: dict[str, list[dict[str, Any]]]
    discoveries: dict[str, dict[str, dict[str, Any]]]
    source: str
    files: str | None = None
    without: frozenset[str] = frozenset()

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.config["run_dir"])

    @property
    def every(self) -> dict[str | None, dict[str, Any]]:
        """Configurations of the stages of each discovery, of the main one (None) first."""
        every: dict[str | None, dict[str, Any]] = {None: self.config}
        every.update(self.discoveries)
        return every

    def configs(self, stage: str) -> list[dict[str, Any]]:
        """Configurations of a stage: of the main discovery, then of the further ones."""
        return [own[stage] for own in self.every.values() if stage in own]
