"""The stage that measures, by linear probes, what the codes hold of every factor."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.files import read_json, write_json, write_text
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.given import refuse_impossible_probes
from detaux_pl.cli.parser import ShortParser, config_parser
from detaux_pl.cli.stage import evaluate_settings, run_stage, wants_redo
from detaux_pl.evaluation.probe_table import collate, to_rich
from detaux_pl.evaluation.probes import n_probes, probe_codes

UPSTREAM = ("disentangle/codes",)


def evaluate_parser() -> ShortParser:
    """Return the parser of the stage."""
    parser = config_parser(ShortParser, prog="detaux evaluate")
    parser.add_argument("--run_dir", type=str, default="runs/evaluate", help="Folder of the run.")
    parser.add_argument("--redo", type=str, default=None, help="`evaluate`, to begin anew.")
    parser.add_argument(
        "--tasks", type=list[str] | None, default=None, help="Factors to probe; null for all."
    )
    parser.add_argument(
        "--max_samples", type=int | None, default=20000,
        help="Samples of each split that a probe uses at most; null for all.",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="Seed of the choice of samples.")
    return parser


def run(args: list[str]) -> int:
    """Run `detaux evaluate`."""
    parser = evaluate_parser()
    config: dict[str, Any] = yaml.safe_load(parser.dump(parser.parse_args(args), skip_unset=False))
    settings = evaluate_settings(config)
    folder = StageFolder(Path(config["run_dir"]), "evaluate")
    codes = Codes.load(folder.run_dir / UPSTREAM[0])
    # A stage that has begun with such tasks would take no others without --redo.
    refuse_impossible_probes(settings, codes.info.names)

    def work() -> list[Path]:
        kept = {**config, "redo": None}
        write_text(folder.path / "config.yaml", yaml.safe_dump(kept, sort_keys=False))
        others = [Codes.load(folder.run_dir / UPSTREAM[0], name) for name in codes.others]
        arrays = [codes, *others]
        with progress_bar("evaluate · probes", n_probes(arrays, settings["tasks"])) as advance:
            probes = probe_codes(arrays, **settings, progress=partial(advance, 1))
        write_json(folder.path / "probes.json", probes)
        return [folder.path / name for name in ("config.yaml", "probes.json")]

    run_stage(folder, settings, UPSTREAM, work, wants_redo(config["redo"], folder.name))
    if "DETAUX_STAGE" not in os.environ:  # the planner shows the report
        probes = read_json(folder.path / "probes.json")
        study = collate({folder.run_dir.resolve().name: [probes]})
        Console().print(to_rich(study, "accuracies"))
    return 0
