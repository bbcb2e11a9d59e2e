"""The stage that shows what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.parser import ShortParser, config_parser
from detaux_pl.cli.stage import run_stage
from detaux_pl.evaluation.report import write_report
from detaux_pl.evaluation.run import Run


def report_parser() -> ShortParser:
    """Return the parser of the stage."""
    parser = config_parser(ShortParser, prog="detaux report")
    parser.add_argument("--run_dir", type=str, default="runs/detaux", help="Folder of the run.")
    return parser


def run(args: list[str]) -> int:
    """Run `detaux report`: make it anew from what the run folder holds."""
    run_ = Run(report_parser().parse_args(args).run_dir)
    folder = StageFolder(run_.run_dir, "report")
    arms, seeds = _arms(run_.run_dir), _seeds(run_)
    upstream = ["disentangle", "disentangle/codes", "cluster"]
    upstream += [
        path.relative_to(run_.run_dir).as_posix()
        for arm in arms
        for path in sorted((run_.run_dir / "multitask" / arm).glob("seed*"))
        if StageFolder(run_.run_dir, path.relative_to(run_.run_dir).as_posix()).complete
    ]

    def work() -> list[Path]:
        baseline = "single_task" if "single_task" in arms else next(iter(arms))
        write_report(run_.run_dir, list(arms), baseline, seeds, run_.data.images, run_.disentangler)
        names = ("report.html", "report.json", "figures/*.png")
        return [path for name in names for path in folder.path.glob(name)]

    # The report only shows the other stages: making it anew loses nothing.
    run_stage(folder, {}, upstream, work, redo=True)
    return 0


def _arms(run_dir: Path) -> list[str]:
    """Name the arms in the order to show them: the main one, the baselines, the controls."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((run_dir / "multitask").glob("*/seed*/config.yaml")):
        found.setdefault(path.parts[-3], yaml.safe_load(path.read_text(encoding="utf-8")))
    if not found:
        raise ArtifactError(f"{run_dir} has no trained network: run `detaux multitask fit` first.")

    def place(arm: str) -> tuple[bool, bool, str]:
        data: dict[str, Any] = found[arm]["data"]["init_args"]
        control = data.get("auxiliary", "discovered") != "discovered"
        return control, found[arm]["model"]["class_path"].endswith(".SingleTask"), arm

    return sorted(found, key=place)


def _seeds(run_: Run) -> list[int]:
    """List the seeds that every arm was to run: the report names those that are missing."""
    path = run_.run_dir / "config.yaml"
    if path.is_file():
        chain = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [chain["seed"] + k for k in range(chain["seeds"])]
    return sorted({seed for seeds in run_.arms.values() for seed in seeds})
