"""The stage that turns codes into auxiliary labels; imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.parser import ShortParser, config_parser
from detaux_pl.cli.stage import cluster_settings, import_room, run_stage, wants_redo
from detaux_pl.cluster.discover import Discovery

UPSTREAM = ("disentangle/codes",)


def cluster_parser() -> ShortParser:
    """Return the parser of the stage."""
    import_room("cluster")
    parser = config_parser(ShortParser, prog="detaux cluster")
    parser.add_argument("--run_dir", type=str, default="runs/cluster", help="Folder of the run.")
    parser.add_argument("--redo", type=str, default=None, help="`cluster`, to begin anew.")
    parser.add_class_arguments(Discovery, None)
    return parser


def run(args: list[str]) -> int:
    """Run `detaux cluster`."""
    parser = cluster_parser()
    parsed = parser.parse_args(args)
    config: dict[str, Any] = yaml.safe_load(parser.dump(parsed, skip_unset=False))
    folder = StageFolder(Path(config["run_dir"]), "cluster")

    def work() -> list[Path]:
        built = parser.instantiate(parsed)
        discovery = Discovery(**{name: built[name] for name in cluster_settings(config)})
        kept = {**config, "redo": None}
        write_text(folder.path / "config.yaml", yaml.safe_dump(kept, sort_keys=False))
        labels = discovery(Codes.load(folder.run_dir / UPSTREAM[0]))
        labels.save(folder.path)
        return [
            folder.path / name
            for name in ("config.yaml", "labels.npz", "labels.json", "labels.csv")
        ]

    redo = wants_redo(config["redo"], folder.name)
    run_stage(folder, cluster_settings(config), UPSTREAM, work, redo)
    return 0
