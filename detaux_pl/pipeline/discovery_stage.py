"""What `cluster` and `refine` do around their work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from detaux_pl.artifacts.errors import DiscoveryError, Diverged, UserError
from detaux_pl.artifacts.exit_codes import NOTHING_FOUND, Stopped, stopped
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.kinds import misfit
from detaux_pl.artifacts.run_stage import is_global_zero, rank_and_world, run_stage
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.artifacts.yaml_text import dump_yaml
from detaux_pl.settings.build import Spec
from detaux_pl.settings.names import wants_redo
from detaux_pl.settings.places import at_places, newest_places


class NetsTrainer(TypedDict):
    """What of Lightning's trainer the nets need."""

    accelerator: str
    max_epochs: NotRequired[int | None]


class NetsConfig(TypedDict):
    """What the nets of a stage are built from, see `resolve_nets`."""

    model: Spec
    single: Spec
    data: Spec
    trainer: NetsTrainer
    folds: int


def refuse_nets(config: Mapping[str, Any] | None) -> None:
    """Refuse settings of nets that `detaux fit` did not write.

    Raises:
        UserError: If something is missing, or is none.
    """
    if config is None:
        return
    take = "take the config.yaml that `detaux fit` wrote to the folder of the stage"
    missing = NetsConfig.__required_keys__ - config.keys()
    if missing:
        raise UserError(f"nets lack {', '.join(sorted(missing))}: {take}.")
    if (wrong := misfit(config, NetsConfig, "nets")) is not None:
        raise UserError(f"{wrong}: {take}.")


def settled(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a stage whose nets read the data where they lie now."""
    nets = config["nets"]
    if nets is None or misfit(nets.get("data"), Spec) is not None:
        return config
    data = at_places(nets["data"], newest_places(Path(config["run_dir"])))
    return {**config, "nets": {**nets, "data": data}}


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
        Diverged: If the training of a net did.
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
            write_text(path, dump_yaml({**config, "redo": None}))
        try:
            return [path, *work()]
        except Diverged as error:
            raise error.within(folder.name) from error

    try:
        run_stage(folder, settings, upstream, keep_and_work, redo)
    except Stopped as end:
        return stopped(end.code) if end.code > 128 else end.code
    except DiscoveryError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return NOTHING_FOUND
    return 0
