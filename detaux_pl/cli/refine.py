"""The stage that corrects the auxiliary labels by what nets say of images they never saw."""

from __future__ import annotations

import shutil
from math import comb
from pathlib import Path
from typing import Any

import yaml

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import load_tasks, save_tasks
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.parser import ShortParser, config_parser
from detaux_pl.cli.stage import (
    discovery_folder,
    is_global_zero,
    rank_and_world,
    refine_settings,
    refuse_nets,
    run_discovery_stage,
)
from detaux_pl.cli.workers import net_workers


def refine_parser() -> ShortParser:
    """Return the parser of the stage."""
    parser = config_parser(ShortParser, prog="detaux refine")
    parser.add_argument("--run_dir", type=str, default="runs/refine", help="Folder of the run.")
    parser.add_argument("--redo", type=str, default=None, help="`refine`, to begin anew.")
    parser.add_argument(
        "--discovery", type=str, default=None,
        help="Name of a further discovery of the run; null for the main one.",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, default=0,
        help="How often the labels are predicted out of fold, and replaced; 0 leaves them alone.",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="Seed of the folds and the nets.")
    parser.add_argument(
        "--jobs", type=int | None, default=None,
        help="Processes; null for one per core, or one per device of an accelerator.",
    )  # fmt: skip
    parser.add_argument(
        "--nets", type=dict[str, Any] | None, default=None,
        help="Model, data, trainer and folds; `detaux fit` writes them from those of multitask.",
    )  # fmt: skip
    return parser


def refuse_rounds(config: dict[str, Any], folds: int) -> None:
    """Refuse a number of rounds that the folds do not allow.

    Raises:
        UserError: If it is negative, or not less than the number of folds.
    """
    if not 0 <= config["rounds"] < folds:
        raise UserError(
            f"refine.rounds is {config['rounds']}: give 0 for none, and less than nets.folds, "
            f"which is {folds}, as a net of the first round sees none of as many folds."
        )


def run(args: list[str]) -> int:
    """Run `detaux refine`."""
    parser = refine_parser()
    config: dict[str, Any] = yaml.safe_load(parser.dump(parser.parse_args(args), skip_unset=False))
    config.pop("config", None)
    if config["nets"] is None or config["rounds"] < 1:
        raise UserError(
            f"rounds is {config['rounds']} and nets are "
            f"{'given' if config['nets'] else 'not'}: run `detaux fit --refine.rounds 2 --until "
            "refine`, or this command with the config.yaml that it wrote to the folder refine."
        )
    refuse_nets(config["nets"])
    refuse_rounds(config, config["nets"]["folds"])
    run_dir = Path(config["run_dir"])
    folder = StageFolder(run_dir, discovery_folder("refine", config["discovery"]))
    labels = discovery_folder("cluster", config["discovery"])

    def work() -> list[Path]:
        plan = {
            **config["nets"],
            "rounds": config["rounds"],
            "replace": True,
            "fits": {"tasks": {"labels": str(run_dir / labels), "seed": config["seed"]}},
        }
        n_nets = max(comb(config["nets"]["folds"], 1 + r) for r in range(config["rounds"]))
        with net_workers(config["nets"], config["jobs"], n_nets) as workers:
            from detaux_pl.cli.nets import run_nets
            from detaux_pl.multitask.refine import refine_labels

            nets = run_nets(run_dir, folder.path / "nets", plan, workers)
        if not is_global_zero():
            return []
        tasks = load_tasks(run_dir / labels)
        refined = refine_labels(nets.fits["tasks"], tasks, nets.data.dataset.ids)
        paths = save_tasks(refined, folder.path)
        if rank_and_world() == (0, 1):  # another rank may still read them
            shutil.rmtree(folder.path / "nets")
        return paths

    return run_discovery_stage(folder, config, refine_settings(config), (labels,), work)
