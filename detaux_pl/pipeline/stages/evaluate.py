"""The stage that measures what the codes hold of every factor: linear probes and metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import joblib  # type: ignore[import-untyped]
import numpy as np

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import read_kind, write_json, write_text
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.artifacts.run_stage import run_stage
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.artifacts.terminal import terminal
from detaux_pl.artifacts.yaml_text import dump_yaml
from detaux_pl.evaluation.disentanglement import choose_metrics, judge_codes
from detaux_pl.evaluation.probes import n_probes, probe_codes
from detaux_pl.evaluation.results import Probes, read_metrics, read_probes
from detaux_pl.pipeline.evaluation_checks import (
    refuse_impossible_evaluation,
    refuse_impossible_metrics,
)
from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.report import metric_table, probe_table
from detaux_pl.settings.names import wants_redo
from detaux_pl.settings.parser import ShortParser, config_parser, parse
from detaux_pl.settings.places import follow_folder

UPSTREAM = ("disentangle/codes",)


def parser() -> ShortParser:
    """Return the parser of the stage."""
    made = config_parser(ShortParser, prog="detaux evaluate")
    made.add_argument("--run_dir", type=str, default="runs/evaluate", help="Folder of the run.")
    made.add_argument("--redo", type=str, default=None, help="`evaluate`, to begin anew.")
    made.add_argument(
        "--tasks", type=list[str] | None, default=None, help="Factors to measure; null for all."
    )
    made.add_argument(
        "--max_samples", type=int | None, default=20000,
        help="Samples of each split that are used at most; null for all.",
    )  # fmt: skip
    made.add_argument(
        "--metrics", type=list[str] | None, default=None,
        help="Disentanglement metrics; null for all that data and codes allow, [] for none.",
    )  # fmt: skip
    made.add_argument(
        "--max_codes", type=int | None, default=256,
        help="Codes up to which metrics are computed: subspaces times dimensions; null for any.",
    )  # fmt: skip
    made.add_argument("--seed", type=int, default=0, help="Seed of the choice of samples.")
    return made


def run(args: list[str]) -> int:
    """Run `detaux evaluate`."""
    config = parse(parser(), follow_folder(args))
    settings = evaluate_settings(config)
    folder = StageFolder(Path(config["run_dir"]), "evaluate")
    codes = _load(folder.run_dir / UPSTREAM[0])
    # A stage that has begun with such settings would take no others without --redo.
    refuse_impossible_evaluation(config, codes.info.names)
    refuse_impossible_metrics(config, codes.info.names, *codes.values.shape[1:])
    probed = {name: settings[name] for name in ("tasks", "max_samples", "seed")}
    judged = {
        "factors": settings["tasks"],
        **{name: settings[name] for name in ("metrics", "max_samples", "seed")},
    }
    choice = choose_metrics(codes, **judged)

    def work() -> list[Path]:
        kept = {**config, "redo": None}
        write_text(folder.path / "config.yaml", dump_yaml(kept))
        others = [Codes.load(folder.run_dir / UPSTREAM[0], name) for name in codes.others]
        arrays = [codes, *others]
        partly = _Kept(folder.path / "partial.json")
        n_steps = n_probes(arrays, probed["tasks"])
        with progress_bar("evaluate", n_steps + len(choice.metrics)) as advance:
            if "probes" in partly:
                advance(n_steps)
            else:
                partly["probes"] = probe_codes(arrays, **probed, progress=partial(advance, 1))
            metrics = judge_codes(
                codes, **judged, n_jobs=joblib.cpu_count(), progress=advance, kept=partly
            )
        write_json(folder.path / "probes.json", partly["probes"])
        write_json(folder.path / "metrics.json", metrics)
        partly.path.unlink()
        return [folder.path / name for name in ("config.yaml", "probes.json", "metrics.json")]

    run_stage(folder, settings, UPSTREAM, work, wants_redo(config["redo"], folder.name))
    if "DETAUX_STAGE" not in os.environ:  # the planner shows the report
        _show(folder)
    return 0


class Scored(TypedDict):
    """What is kept of a metric."""

    scores: dict[str, dict[str, float | None]]
    seconds: float


class LeftOut(TypedDict):
    """What is kept of a metric that could not be computed."""

    left_out: str


Kept = Probes | Scored | LeftOut


class _Kept(dict[str, Any]):
    """Results so far, each at once on disk: a stage that was stopped goes on after them.

    That they are of the same codes and settings, the manifest of the stage vouches for.

    Args:
        path: The file, which may be there already.
    """

    def __init__(self, path: Path) -> None:
        remedy = "delete it to measure anew"
        super().__init__(read_kind(path, dict[str, Kept], remedy) if path.is_file() else {})
        self.path = path

    def __setitem__(self, name: str, result: Any) -> None:
        super().__setitem__(name, result)
        write_json(self.path, self)


def _load(folder: Path) -> Codes:
    """Load the codes.

    Raises:
        UserError: If a factor is continuous.
    """
    codes = Codes.load(folder)
    if not np.issubdtype(codes.factors.dtype, np.integer):
        raise UserError(
            f"{folder} holds factors of type {codes.factors.dtype}: give integers, and cut a "
            "continuous factor into classes first."
        )
    return codes


def _show(folder: StageFolder) -> None:
    name = folder.run_dir.resolve().name
    probes, metrics = read_probes(folder.run_dir), read_metrics(folder.run_dir)
    console = terminal()
    study = probe_table.collate({name: [probes]})
    console.print(probe_table.lay_out(study, "accuracies").to_rich())
    scores = metric_table.collate({name: [metrics]})
    if scores[name]:
        console.print(metric_table.lay_out(scores, "scores").to_rich())
    for metric, reason in metrics["left_out"].items():
        console.print(f"{metric} is left out: {reason}", soft_wrap=True)


def jobs(chain: Chain, before: Sequence[Job]) -> list[Job]:
    """Judge the codes of the main disentangler."""
    config = chain.config["evaluate"]
    return [Job("evaluate", ("evaluate",), config, evaluate_settings(config), UPSTREAM, alone=True)]


def evaluate_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what changes the probes and metrics."""
    return {name: config[name] for name in ("tasks", "max_samples", "seed", "metrics")}
