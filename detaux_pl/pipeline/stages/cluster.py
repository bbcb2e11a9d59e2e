"""The stage that turns codes into auxiliary labels; imports no torch unless it tries them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from pydoc import locate
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import DiscoveryError, UserError
from detaux_pl.artifacts.exit_codes import NOTHING_FOUND
from detaux_pl.artifacts.files import write_json
from detaux_pl.artifacts.labels import AuxiliaryLabels, save_tasks
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.artifacts.run_stage import is_global_zero, rank_and_world
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.candidates import (
    Candidate,
    Selection,
    choose,
    judge,
    pick_tries,
    propose,
    proposing_subspaces,
)
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.erased import ERASURES, find_erasure, load_features, read_erasures
from detaux_pl.cluster.erasing import Erasing
from detaux_pl.cluster.related import look_beside, relate_candidates, relate_tasks
from detaux_pl.cluster.shortcuts import SHORTCUT_GROUPS, SHORTCUTS, Shortcuts, read_shortcuts
from detaux_pl.cluster.tried import CANDIDATES, UseVerdict, Verdict, read_candidates
from detaux_pl.cluster.uses import LEAVE, judge_uses, pick_for_uses
from detaux_pl.pipeline.discovery_stage import refuse_nets, run_discovery_stage, settled
from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.pipeline.workers import Workers, net_workers
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
            with net_workers(config["nets"], config["jobs"], n_nets) as workers:
                return _select(folder, config, sources, discovery, selection, workers)
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


def _select(
    folder: StageFolder,
    config: dict[str, Any],
    sources: dict[str, Codes],
    discovery: Discovery,
    selection: Selection,
    workers: Workers | None,
) -> list[Path]:
    """Propose candidates, try them on images, choose and confirm; write what was found."""
    from detaux_pl.pipeline.nets import run_nets

    room = folder.path / "nets"

    def cross_fit(
        name: str,
        tasks: Mapping[str, Sequence[Candidate]],
        seeds: Sequence[int],
        models: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        fits = {}
        for task, candidates in tasks.items():
            labels = None
            if candidates:
                labels = room / name / "labels" / task
                labels.mkdir(parents=True, exist_ok=True)
                save_tasks([c.task for c in candidates if c.task is not None], labels)
            for seed in seeds:
                fits[f"{task}-{seed}"] = {"labels": labels and str(labels), "seed": seed}
                if task in models:
                    fits[f"{task}-{seed}"]["model"] = models[task]
        plan = {**config["nets"], "rounds": 1, "replace": False, "fits": fits}
        return run_nets(folder.run_dir, room / name, plan, workers).fits

    n_subspaces = sum(
        len(proposing_subspaces(c, discovery)) + 1 + (discovery.scope == "within_class")
        for c in sources.values()
    )
    with progress_bar("candidates", n_subspaces * (1 + len(selection.clusterers))) as advance:
        candidates = propose(sources, discovery, selection, advance)
        beside = look_beside(sources, discovery, selection, advance)
    everything = [*candidates, *beside]
    related = relate_candidates(everything, sources, discovery.seed)
    picked = pick_tries(candidates, selection, discovery.n_tasks)
    tried = {f"candidate{k}": candidate for k, candidate in enumerate(picked)}
    seed = discovery.seed
    chosen: list[Candidate] = []
    if tried:
        fits = cross_fit("tries", {"single": (), **{k: (c,) for k, c in tried.items()}}, [seed])
        single = fits[f"single-{seed}"].accuracies()[:, 0]
        for name, candidate in tried.items():
            fit = fits[f"{name}-{seed}"]
            candidate.gain = float((fit.accuracies()[:, 0] - single).mean())
            candidate.learnability = fit.learnability()
        chosen = choose(candidates, selection, discovery.n_tasks)
    alone = together = np.zeros(0)
    if len(chosen) == discovery.n_tasks:
        seeds = [seed + 1 + k for k in range(selection.confirmations)]
        fits = cross_fit("confirmations", {"single": (), "chosen": chosen}, seeds)
        alone, together = (
            np.concatenate([fits[f"{arm}-{s}"].accuracies()[:, 0] for s in seeds])
            for arm in ("single", "chosen")
        )
    principal = next(iter(sources.values())).info.principal
    n_folds = config["nets"]["folds"]
    verdict = judge(chosen, discovery.n_tasks, n_folds, alone, together, principal)
    known: dict[str, Any] = {"verdict": verdict}
    if selection.uses and (asked := pick_for_uses(everything, chosen, related[1], selection)):
        fitted = partial(cross_fit, seeds=[seed + 1 + k for k in range(selection.confirmations)])
        known["uses"] = uses = try_uses(asked, fitted)
        verdict["details"] += [each["sentence"] for each in uses]
        verdict["sentence"] = " ".join([f"{verdict['headline']}.", *verdict["details"]])
    outputs = [folder.path / CANDIDATES, *_write_shortcuts(folder, *related)]
    if is_global_zero():
        records = [candidate.record() for candidate in everything]
        write_json(outputs[0], {**known, "candidates": records})
        if verdict["found"]:
            outputs += save_tasks([c.task for c in chosen if c.task is not None], folder.path)
    if rank_and_world() == (0, 1):  # another rank may still read them
        shutil.rmtree(room, ignore_errors=True)
    return outputs


def try_uses(candidates: Sequence[Candidate], cross_fit: Callable[..., Any]) -> list[UseVerdict]:
    """Say what each candidate is good for, by nets that leave it, learn it and balance it.

    Args:
        candidates: The candidates.
        cross_fit: Trains nets, by the name of their room, tasks and models.
    """
    tasks: dict[str, Sequence[Candidate]] = {LEAVE: ()}
    for k, candidate in enumerate(candidates):
        tasks |= {f"learn{k}": (candidate,), f"balance{k}": (candidate,)}
    balanced = {f"balance{k}": "balance" for k in range(len(candidates))}
    fits = cross_fit("uses", tasks, models=balanced)

    def of(task: str) -> list[Any]:
        return [fit for name, fit in fits.items() if name.rpartition("-")[0] == task]

    def right(task: str) -> NDArray[np.bool_]:
        own = of(task)
        rows = own[0].train
        told = [fit.out_of_fold()[0][rows].argmax(axis=1) == fit.targets[rows, 0] for fit in own]
        return np.stack(told)

    alone, left, found = of(LEAVE), right(LEAVE), []
    folds, rows = np.stack([fit.folds for fit in alone]), alone[0].train
    for k, candidate in enumerate(candidates):
        told = {LEAVE: left, "learn": right(f"learn{k}"), "balance": right(f"balance{k}")}
        groups = of(f"learn{k}")[0].targets[rows, 1]
        found.append(judge_uses(candidate.name, told, folds, alone[0].targets[rows, 0], groups))
    return found


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
