"""The stage that turns codes into auxiliary labels; imports no torch unless it tries them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from pydoc import locate
from typing import Any

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import DiscoveryError, UserError
from detaux_pl.artifacts.exit_codes import NOTHING_FOUND
from detaux_pl.artifacts.files import write_json
from detaux_pl.artifacts.labels import AuxiliaryLabels, save_tasks
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.artifacts.run_stage import is_global_zero, rank_and_world
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.candidates import Candidate, Selection
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.erased import ERASURES, find_erasure, load_features, read_erasures
from detaux_pl.cluster.erasing import Erasing
from detaux_pl.cluster.related import relate_candidates, relate_tasks
from detaux_pl.cluster.shortcuts import SHORTCUT_GROUPS, SHORTCUTS, Shortcuts, read_shortcuts
from detaux_pl.cluster.tried import CANDIDATES, Verdict, read_candidates
from detaux_pl.pipeline.discovery_stage import refuse_nets, run_discovery_stage, settled
from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.pipeline.selection import CrossFits, Selected, select_tasks
from detaux_pl.pipeline.workers import net_workers
from detaux_pl.settings.build import import_room
from detaux_pl.settings.keys import nets_settings, without_places
from detaux_pl.settings.names import discovery_folder
from detaux_pl.settings.parser import ShortParser, config_parser, explain, parse
from detaux_pl.settings.places import follow_folder
from detaux_pl.settings.words import plain


def parser() -> ShortParser:
    """Return the parser of the stage."""
    import_room("cluster")
    made = config_parser(ShortParser, prog="detaux cluster")
    made.add_argument("--run_dir", type=str, default="runs/cluster", help="Folder of the run.")
    made.add_argument("--redo", type=str, default=None, help="`cluster`, to begin anew.")
    made.add_argument(
        "--discovery", type=str, default=None,
        help="Name of a further discovery of the run; null for the main one.",
    )  # fmt: skip
    made.add_argument(
        "--codes", type=str | list[str], default="disentangle/codes",
        help="Stage whose codes are clustered; several where a task is selected.",
    )  # fmt: skip
    made.add_class_arguments(Discovery, None)
    made.add_argument(
        "--select", type=Selection | None, default=None,
        help="How to choose among candidates tried on images; null for the rule alone.",
    )  # fmt: skip
    made.add_argument(
        "--erase", type=Erasing | None, default=None,
        help="How to choose groups that are erased from features; null for a task to learn.",
    )  # fmt: skip
    made.add_argument(
        "--jobs", type=int | None, default=None,
        help="Processes that try candidates; null for one per core, or per accelerator.",
    )  # fmt: skip
    made.add_argument(
        "--nets", type=dict[str, Any] | None, default=None,
        help="Model, data, trainer and folds; `detaux fit` writes them from those of multitask.",
    )  # fmt: skip
    return made


def build_discovery(
    config: dict[str, Any], key: str = ""
) -> tuple[Discovery, Selection | None, Erasing | None]:
    """Build what the stage does from its resolved configuration.

    Args:
        config: The configuration.
        key: Where it is in that of a chain.

    Raises:
        UserError: If a setting is outside its range, or does not go with another.
    """
    own = parser()
    try:
        # jsonargparse parses the items of a list in place.
        built = own.instantiate(plain(own.parse_object(deepcopy(config))))
        apart = ("select", "erase", "nets")
        settings = {name: built[name] for name in cluster_settings(config) if name not in apart}
        discovery, selection, erasing = Discovery(**settings), built["select"], built["erase"]
    except (ValueError, TypeError) as error:
        raise explain(error, config, key) from error
    if selection is not None and erasing is not None:
        raise UserError(
            "select and erase are both given: groups are learned as a task (select) or erased from "
            "the features (erase), leave one out."
        )
    if discovery.further == "erase" and (selection is not None or erasing is not None):
        raise UserError(
            "further is erase, which finds tasks by the rule, one after the other, and "
            f"{'select' if selection is not None else 'erase'} chooses among candidates: leave one "
            "out."
        )
    if selection is not None and selection.tries < discovery.n_tasks:
        raise UserError(
            f"n_tasks is {discovery.n_tasks}, but select.tries is {selection.tries}: each task is "
            "chosen among those that were tried, so try at least as many."
        )
    if selection is None and not isinstance(config["codes"], str):
        raise UserError(
            f"codes are {config['codes']}, but without select nothing chooses among them: give "
            "select, or one stage of codes."
        )
    return discovery, selection, erasing


def found_task(folder: StageFolder) -> bool:
    """Whether a finished stage found a task worth training on."""
    tried = read_candidates(folder)
    return tried is None or tried["verdict"]["found"]


def run(args: list[str]) -> int:
    """Run `detaux cluster`."""
    config = settled(parse(parser(), follow_folder(args)))
    discovery, selection, erasing = build_discovery(config)
    folder = StageFolder(Path(config["run_dir"]), discovery_folder("cluster", config["discovery"]))
    if selection is not None and config["nets"] is None:
        raise UserError(
            "select tries candidates on images, and nets does not say how: run `detaux fit "
            "--until cluster`, or this command with the config.yaml that it wrote to the folder "
            "cluster."
        )
    refuse_nets(config["nets"])
    if selection is not None and selection.uses and "balance" not in config["nets"]:
        raise UserError(
            "select.uses is set, and nets does not say how groups are balanced: run `detaux fit "
            "--until cluster` with cluster.select.uses, which writes it."
        )
    stages = _stages(config)

    def work() -> list[Path]:
        if selection is None and not is_global_zero():
            return []  # there is nothing to share out, and the first rank writes
        if erasing is not None:
            return _erase(folder, load_features(folder.run_dir / stages[0]), erasing)
        sources = {stage: Codes.load(folder.run_dir / stage) for stage in stages}
        if selection is not None:
            per_seed = 5 if selection.uses else 2  # two candidates, each learned and balanced
            n_fits = max(1 + selection.tries, per_seed * selection.confirmations)
            n_nets = config["nets"]["folds"] * n_fits
            room = folder.path / "nets"
            with net_workers(config["nets"], config["jobs"], n_nets) as workers:
                cross_fits = CrossFits(folder.run_dir, room, config["nets"], workers)
                outputs = _write_selected(
                    folder, select_tasks(sources, discovery, selection, cross_fits)
                )
            if rank_and_world() == (0, 1):  # another rank may still read them
                shutil.rmtree(room, ignore_errors=True)
            return outputs
        codes = sources[stages[0]]
        with progress_bar("groupings", discovery.n_tasks + 1) as advance:
            try:
                tasks = discovery(codes, advance)
            except DiscoveryError as failure:
                alarms = relate_tasks([], stages[0], codes, discovery)[0]["alarms"]
                told = " ".join([f"{failure}", *(alarm["sentence"] for alarm in alarms)])
                raise DiscoveryError(told) from failure
            related = relate_tasks(tasks, stages[0], codes, discovery, advance)
        return [*_write_shortcuts(folder, *related), *save_tasks(tasks, folder.path)]

    code = run_discovery_stage(folder, config, cluster_settings(config), stages, work)
    if code or not is_global_zero():
        return code
    if "DETAUX_STAGE" not in os.environ:  # the planner says it
        for sentence in told(folder):
            print(sentence, file=sys.stderr)
    return 0 if found_task(folder) else NOTHING_FOUND


def told(folder: StageFolder) -> list[str]:
    """What a finished stage has to say: of its candidates, and of shortcuts."""
    verdict, shortcuts = read_verdict(folder), read_shortcuts(folder)
    sentences = [] if verdict is None else [verdict["sentence"]]
    return sentences + [alarm["sentence"] for alarm in (shortcuts or {"alarms": []})["alarms"]]


def read_verdict(folder: StageFolder) -> Verdict | None:
    """Read what a finished stage says of its candidates; None where it had none."""
    found = read_candidates(folder) or read_erasures(folder)
    return None if found is None else found["verdict"]


def _write_shortcuts(
    folder: StageFolder, shortcuts: Shortcuts, groups: Sequence[AuxiliaryLabels]
) -> list[Path]:
    """Write how groupings relate to the label, and the groups of the alarms."""
    path = folder.path / SHORTCUTS
    if not is_global_zero():
        return [path]
    write_json(path, shortcuts)
    shutil.rmtree(folder.path / SHORTCUT_GROUPS, ignore_errors=True)
    return [path, *(save_tasks(groups, folder.path / SHORTCUT_GROUPS) if groups else [])]


def _erase(folder: StageFolder, features: Codes, erasing: Erasing) -> list[Path]:
    """Choose groups to erase, and write them and what was found of all."""
    choice, tasks = find_erasure(features, erasing)
    path = folder.path / ERASURES
    write_json(path, choice.record())
    name = "features"
    groups = [Candidate(name, 0, task.meta["clusterer"], task) for task in tasks]
    related = relate_candidates(groups, {name: features}, erasing.seed)
    return [path, *_write_shortcuts(folder, *related), *save_tasks(tasks, folder.path)]


def _write_selected(folder: StageFolder, found: Selected) -> list[Path]:
    """Write what a selection found."""
    outputs = [folder.path / CANDIDATES, *_write_shortcuts(folder, *found.related)]
    if is_global_zero():
        records = [candidate.record() for candidate in found.candidates]
        write_json(outputs[0], {**found.known, "candidates": records})
        if found.known["verdict"]["found"]:
            outputs += save_tasks([c.task for c in found.chosen if c.task is not None], folder.path)
    return outputs


def check(own: Mapping[str, Any], folds: int) -> None:
    """Refuse settings that are outside their range, or do not go with each other."""
    name = own["cluster"]["discovery"]
    key = "cluster" if name is None else f"discoveries.{name}.cluster"
    _, _, erasing = build_discovery(own["cluster"], key)
    if erasing is None or "disentangle" not in own:  # a discovery may share the main one's codes
        return
    model: Any = locate(own["disentangle"]["model"]["class_path"])
    if not model.gives_features:
        raise UserError(
            f"{key}.erase needs features of a frozen network, and {model.__name__} has none: take "
            "the disentangler PretrainedFeatures, or leave erase out."
        )


def net_tasks(own: Mapping[str, Any]) -> set[int]:
    """Numbers of tasks of the nets that try candidates on images; none where none is tried."""
    config = own["cluster"]
    return set() if config["select"] is None else {1, 2, 1 + config["n_tasks"]}


def jobs(chain: Chain, before: Sequence[Job]) -> list[Job]:
    """Cluster the codes of the main disentangler, and those of the further discoveries."""
    return [
        Job(
            discovery_folder("cluster", config["discovery"]), ("cluster",), config,
            cluster_settings(config), tuple(_stages(config)), alone=True,
        )
        for config in chain.configs("cluster")
    ]  # fmt: skip


def _stages(config: dict[str, Any]) -> list[str]:
    """Stages whose codes are clustered."""
    codes: str | list[str] = config["codes"]
    return [codes] if isinstance(codes, str) else codes


def cluster_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what changes the auxiliary labels."""
    apart = ["run_dir", "redo", "discovery", "codes", "jobs"]
    # Without a selection no net is trained.
    apart += ["select", "nets"] if config["select"] is None else []
    # As before there was a choice.
    apart += ["erase"] if config.get("erase") is None else []
    apart += ["further"] if config.get("further") == "subspaces" else []
    apart += ["scope"] if config.get("scope") == "all" else []
    settings = {k: without_places(v) for k, v in config.items() if k not in apart}
    return settings | ({"nets": nets_settings(config["nets"])} if "nets" in settings else {})
