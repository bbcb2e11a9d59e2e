"""The stage that corrects the auxiliary labels by what nets say of images they never saw."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import load_tasks, save_tasks
from detaux_pl.artifacts.run_stage import is_global_zero, rank_and_world
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.pipeline.discovery_stage import refuse_nets, run_discovery_stage, settled
from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.pipeline.workers import net_workers
from detaux_pl.settings.keys import nets_settings
from detaux_pl.settings.names import discovery_folder
from detaux_pl.settings.parser import ShortParser, config_parser, parse
from detaux_pl.settings.places import follow_folder


def parser() -> ShortParser:
    """Return the parser of the stage."""
    made = config_parser(ShortParser, prog="detaux refine")
    made.add_argument("--run_dir", type=str, default="runs/refine", help="Folder of the run.")
    made.add_argument("--redo", type=str, default=None, help="`refine`, to begin anew.")
    made.add_argument(
        "--discovery", type=str, default=None,
        help="Name of a further discovery of the run; null for the main one.",
    )  # fmt: skip
    made.add_argument(
        "--rounds", type=int, default=0,
        help="How often the labels are predicted out of fold, and replaced; 0 leaves them alone.",
    )  # fmt: skip
    made.add_argument("--seed", type=int, default=0, help="Seed of the folds and the nets.")
    made.add_argument(
        "--jobs", type=int | None, default=None,
        help="Processes; null for one per core, or one per device of an accelerator.",
    )  # fmt: skip
    made.add_argument(
        "--nets", type=dict[str, Any] | None, default=None,
        help="Model, data, trainer and folds; `detaux fit` writes them from those of multitask.",
    )  # fmt: skip
    return made


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
    config = settled(parse(parser(), follow_folder(args)))
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
            from detaux_pl.multitask.refine import refine_labels
            from detaux_pl.pipeline.nets import run_nets

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


def check(own: Mapping[str, Any], folds: int) -> None:
    """Refuse a number of rounds that the folds do not allow."""
    refuse_rounds(own["refine"], folds)


def net_tasks(own: Mapping[str, Any]) -> set[int]:
    """Numbers of tasks of the nets that correct the labels; none where they are left alone."""
    return {1 + own["cluster"]["n_tasks"]} if own["refine"]["rounds"] else set()


def jobs(chain: Chain, before: Sequence[Job]) -> list[Job]:
    """Refine the labels of every discovery that asks for it."""
    return [
        Job(
            discovery_folder("refine", config["discovery"]), ("refine",), config,
            refine_settings(config), (discovery_folder("cluster", config["discovery"]),),
            alone=True,
        )
        for config in chain.configs("refine")
        if config["rounds"]
    ]  # fmt: skip


def refine_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what changes the refined labels."""
    nets = nets_settings(config["nets"])
    return {"rounds": config["rounds"], "seed": config["seed"], "nets": nets}
