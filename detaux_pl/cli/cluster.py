"""The stage that turns codes into auxiliary labels; imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.labels import save_tasks
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.parser import ShortParser, config_parser, explain
from detaux_pl.cli.stage import (
    cluster_settings,
    discovery_folder,
    import_room,
    run_stage,
    wants_redo,
)
from detaux_pl.cluster.discover import Discovery


def cluster_parser() -> ShortParser:
    """Return the parser of the stage."""
    import_room("cluster")
    parser = config_parser(ShortParser, prog="detaux cluster")
    parser.add_argument("--run_dir", type=str, default="runs/cluster", help="Folder of the run.")
    parser.add_argument("--redo", type=str, default=None, help="`cluster`, to begin anew.")
    parser.add_argument(
        "--discovery", type=str, default=None,
        help="Name of a further discovery of the run; null for the main one.",
    )  # fmt: skip
    parser.add_argument(
        "--codes", type=str, default="disentangle/codes", help="Stage whose codes are clustered."
    )
    parser.add_class_arguments(Discovery, None)
    return parser


def build_discovery(config: dict[str, Any]) -> Discovery:
    """Build what the stage does from its resolved configuration.

    Raises:
        UserError: If a setting is outside its range.
    """
    parser = cluster_parser()
    try:
        built = parser.instantiate(parser.parse_object(config))
        return Discovery(**{name: built[name] for name in cluster_settings(config)})
    except (ValueError, TypeError) as error:
        raise explain(error) from error


def run(args: list[str]) -> int:
    """Run `detaux cluster`."""
    parser = cluster_parser()
    config: dict[str, Any] = yaml.safe_load(parser.dump(parser.parse_args(args), skip_unset=False))
    config.pop("config", None)
    discovery = build_discovery(config)
    folder = StageFolder(Path(config["run_dir"]), discovery_folder("cluster", config["discovery"]))

    def work() -> list[Path]:
        kept = {**config, "redo": None}
        write_text(folder.path / "config.yaml", yaml.safe_dump(kept, sort_keys=False))
        tasks = discovery(Codes.load(folder.run_dir / config["codes"]))
        return [folder.path / "config.yaml", *save_tasks(tasks, folder.path)]

    redo = wants_redo(config["redo"], folder.name)
    run_stage(folder, cluster_settings(config), (config["codes"],), work, redo)
    return 0
