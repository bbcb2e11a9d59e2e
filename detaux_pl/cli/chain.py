"""`detaux fit`: a thin planner over the stages, each a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ActionParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import read_json, write_text
from detaux_pl.artifacts.lock import run_lock
from detaux_pl.artifacts.stage import StageFolder, redo_name, stage_key
from detaux_pl.cli.arms import NetSettings, resolve_arms, resolve_nets
from detaux_pl.cli.cluster import CANDIDATES, build_discovery, cluster_parser, found_task
from detaux_pl.cli.discoveries import DiscoveryStages, resolve_discoveries
from detaux_pl.cli.evaluate import evaluate_parser
from detaux_pl.cli.given import (
    LINKS,
    read_given,
    refuse_impossible_evaluation,
    refuse_impossible_metrics,
    refuse_linked,
    refuse_overruled,
    with_config,
)
from detaux_pl.cli.main import NOTHING_FOUND, stopped
from detaux_pl.cli.parser import (
    ShortParser,
    closest,
    config_parser,
    explain,
)
from detaux_pl.cli.process import Runner, run_processes
from detaux_pl.cli.refine import refine_parser, refuse_rounds
from detaux_pl.cli.stage import (
    cluster_settings,
    codes_settings,
    discovery_folder,
    evaluate_settings,
    on_cpu,
    refine_settings,
    trainable_settings,
)
from detaux_pl.cli.trainable import (
    Tracking,
    labels_stage,
    needs_labels,
    refuse_unusable,
    resolve,
    stage_folder,
    stage_parser,
)
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.data.noise import SaltPepper
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.evaluation.run import build
from detaux_pl.multitask.base import MultitaskModel

_RESTART = 1000
"""From the seed of one restart to that of the next: seeds of runs are closer together."""


@dataclass(frozen=True)
class Job:
    """One stage folder and the command that fills it.

    Args:
        name: Path of the stage inside the run folder.
        command: Words of the command; the config follows.
        config: Resolved configuration of the stage.
        settings: What of it changes the result.
        upstream: Names of the stages whose outputs it reads.
        alone: Whether it needs a process of its own, as several devices do.
        derived: Whether it is made again, and not refused, when what it shows has changed.
    """

    name: str
    command: tuple[str, ...]
    config: dict[str, Any]
    settings: dict[str, Any]
    upstream: tuple[str, ...]
    alone: bool = False
    derived: bool = False


@dataclass(frozen=True)
class Stage:
    """A row of the chain: what a stage is called, and the jobs it makes of the chain's config."""

    name: str
    jobs: Callable[[Chain], list[Job]]


@dataclass(frozen=True)
class Chain:
    """The resolved configuration of all stages.

    Args:
        config: Every setting.
        arms: Of each arm, the stage configuration for every seed.
        discoveries: The stages of each further discovery.
        source: The settings as YAML that can be given again.
        files: Fingerprint of the user's own data files, once it is known.
    """

    config: dict[str, Any]
    arms: dict[str, list[dict[str, Any]]]
    discoveries: dict[str, DiscoveryStages]
    source: str
    files: str | None = None

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.config["run_dir"])


def _disentangle(chain: Chain) -> list[Job]:
    configs = list(_restarts(chain.config))
    configs += [own.disentangle for own in chain.discoveries.values() if own.disentangle]
    jobs = []
    for config in configs:
        name = stage_folder("disentangle", config)
        alone = _n_devices(config["trainer"]) > 1
        settings = trainable_settings(config, chain.files), codes_settings(config)
        jobs += [
            Job(name, ("disentangle", "fit"), config, settings[0], (), alone),
            Job(f"{name}/codes", ("disentangle", "predict"), config, settings[1], (name,), alone),
        ]
    return jobs


def _restarts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings of the main disentangler, with a seed of its own for every restart."""
    main = config["disentangle"]
    for k in range(config["restarts"]):
        seed = main["seed_everything"] + _RESTART * k
        data = {**main["data"], "init_args": {**main["data"]["init_args"], "seed": seed}}
        name = f"restart{k}" if k else None
        yield {**main, "seed_everything": seed, "data": data, "discovery": name}


def _evaluate(chain: Chain) -> list[Job]:
    config = chain.config["evaluate"]
    upstream = ("disentangle/codes",)
    return [Job("evaluate", ("evaluate",), config, evaluate_settings(config), upstream, alone=True)]


def _cluster(chain: Chain) -> list[Job]:
    configs = [chain.config["cluster"], *(own.cluster for own in chain.discoveries.values())]
    return [
        Job(
            discovery_folder("cluster", config["discovery"]), ("cluster",), config,
            cluster_settings(config), _codes(config), alone=True,
        )
        for config in configs
    ]  # fmt: skip


def _codes(config: dict[str, Any]) -> tuple[str, ...]:
    """Stages whose codes are clustered."""
    codes = config["codes"]
    return (codes,) if isinstance(codes, str) else tuple(codes)


def _refine(chain: Chain) -> list[Job]:
    configs = [chain.config["refine"], *(own.refine for own in chain.discoveries.values())]
    return [
        Job(
            discovery_folder("refine", config["discovery"]), ("refine",), config,
            refine_settings(config), (discovery_folder("cluster", config["discovery"]),),
            alone=True,
        )
        for config in configs
        if config["rounds"]
    ]  # fmt: skip


def _multitask(chain: Chain) -> list[Job]:
    jobs = []
    for seeds in zip(*chain.arms.values(), strict=True):
        for config in seeds:
            follows = needs_labels(config)
            jobs.append(
                Job(
                    stage_folder("multitask", config),
                    ("multitask", "fit"),
                    config,
                    trainable_settings(config, None if follows else chain.files),
                    (labels_stage(config),) if follows else (),
                    _n_devices(config["trainer"]) > 1,
                )
            )
    return jobs


def _report(chain: Chain) -> list[Job]:
    upstream = tuple(job.name for stage in STAGES[:-1] for job in stage.jobs(chain))
    seeds = [chain.config["seed"] + k for k in range(chain.config["seeds"])]
    shown = {
        "arms": list(chain.arms), "discoveries": list(chain.discoveries), "seeds": seeds
    }  # fmt: skip
    config = {"run_dir": chain.config["run_dir"], **shown}
    return [Job("report", ("report",), config, shown, upstream, alone=True, derived=True)]


STAGES = (
    Stage("disentangle", _disentangle),
    Stage("evaluate", _evaluate),
    Stage("cluster", _cluster),
    Stage("refine", _refine),
    Stage("multitask", _multitask),
    Stage("report", _report),
)


def chain_parser() -> ShortParser:
    """Return the parser of the whole chain."""
    parser = config_parser(ShortParser, prog="detaux fit")
    parser.add_argument("--run_dir", type=str, default="runs/detaux", help="Folder of the run.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of all stages.")
    parser.add_argument("--seeds", type=int, default=5, help="How often each arm is trained.")
    parser.add_argument(
        "--restarts", type=int, default=1,
        help="How often the disentangler is trained, for cluster.select to choose from.",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=None,
        help="Trainings at once; null for one per core, or one on an accelerator.",
    )  # fmt: skip
    parser.add_argument(
        "--redo", type=str, default=None,
        help="Stage to begin anew, with all that follow from it.",
    )  # fmt: skip
    parser.add_argument(
        "--until", type=str, default=None, help="Stage to stop after, such as cluster."
    )
    parser.add_subclass_arguments(
        FactorDataset, "dataset", required=True, help="Images and factors, for all stages."
    )
    parser.add_argument(
        "--noise", type=SaltPepper | None, default=None, help="Corruption of all images."
    )
    parser.add_argument(
        "--disentangle", action=ActionParser(stage_parser("disentangle")), help="Stage 1."
    )
    parser.add_argument("--evaluate", action=ActionParser(evaluate_parser()), help="Stage 2.")
    parser.add_argument("--cluster", action=ActionParser(cluster_parser()), help="Stage 3.")
    parser.add_argument("--refine", action=ActionParser(refine_parser()), help="Stage 4.")
    parser.add_class_arguments(NetSettings, "nets")
    parser.add_argument(
        "--multitask", action=ActionParser(stage_parser("multitask")), help="Stage 5: the main arm."
    )
    parser.add_argument(
        "--baselines", type=list[str | dict[str, Any]], default=["SingleTask"],
        help="Other models, trained like the main one; what they do not say is as in it.",
    )  # fmt: skip
    parser.add_argument(
        "--discoveries", type=dict[str, dict[str, Any]], default={},
        help="By name, other ways to labels for the main model: disentangle, cluster, refine.",
    )  # fmt: skip
    parser.add_argument(
        "--controls", type=list[str | list[str]], default=["shuffled"],
        help="Other auxiliary labels for the main model: shuffled, a factor, a list of factors.",
    )  # fmt: skip
    parser.add_class_arguments(Tracking, "tracking")
    for source, target in LINKS:
        for stage in ("disentangle", "multitask"):
            parser.link_arguments(source, f"{stage}.{target}")
    for stage in ("evaluate", "cluster", "refine"):
        parser.link_arguments("run_dir", f"{stage}.run_dir")
    for stage in ("cluster", "refine"):
        parser.link_arguments("seed", f"{stage}.seed")
    return parser


def parse(args: Sequence[str]) -> Chain:
    """Parse the chain's arguments and resolve the configuration of every arm and seed.

    Raises:
        UserError: If a setting is unknown or does not fit.
    """
    parser = chain_parser()
    words, given = read_given(list(args))
    refuse_linked(words)
    parsed: Any = parser.parse_args(words)
    config = resolve(parser, parsed)
    refuse_overruled(given, config)
    if config["seeds"] < 1:
        raise UserError(f"seeds is {config['seeds']}: each arm is trained at least once.")
    if config["multitask"]["data"]["init_args"].get("labels") is not None:
        raise UserError(
            "multitask.data.init_args.labels is set, but the chain trains on the labels that it "
            "discovers: leave it out, or run `detaux multitask fit` by itself."
        )
    for stage in ("disentangle", "multitask"):
        refuse_unusable(stage, config[stage])
    for stage in ("disentangle", "cluster", "refine", "multitask"):
        if config[stage]["discovery"] is not None:
            raise UserError(
                f"{stage}.discovery is {config[stage]['discovery']!r}, but the stages of a chain "
                "are those of its main discovery: leave it out, and list others in discoveries."
            )
    if config["cluster"]["codes"] != "disentangle/codes":
        raise UserError(
            f"cluster.codes is {config['cluster']['codes']!r}, but a chain clusters the codes of "
            "its own disentangler: leave it out."
        )
    for stage in ("cluster", "refine"):
        for name in ("nets", "jobs"):
            if config[stage][name] is not None:
                raise UserError(f"{stage}.{name} is that of the chain: set --{name}.")
    discoveries = resolve_discoveries(config)
    refined: dict[str | None, dict[str, Any]] = {None: config["refine"]}
    refined |= {name: own.refine for name, own in discoveries.items()}
    _refuse_restarts(config)
    if config["restarts"] > 1:
        config["cluster"]["codes"] = [
            f"{discovery_folder('disentangle', each['discovery'])}/codes"
            for each in _restarts(config)
        ]
    clusters = [config["cluster"], *(own.cluster for own in discoveries.values())]
    trying = [each for each in refined.values() if each["rounds"]]
    trying += [each for each in clusters if each["select"] is not None]
    if trying:
        nets = resolve_nets(config)
        for each in trying:
            each |= {"nets": nets, "jobs": config["jobs"]}
    arms = dict(resolve_arms(config, {name for name, own in refined.items() if own["rounds"]}))
    for configs in arms.values():
        refuse_unusable("multitask", configs[0])
    # What a command did once is no setting of the run.
    parsed.redo = parsed.until = None
    source = parser.dump(parsed, skip_unset=False)
    return Chain(config, arms, discoveries, source)


def _refuse_restarts(config: dict[str, Any]) -> None:
    restarts = config["restarts"]
    if restarts < 1:
        raise UserError(f"restarts is {restarts}: the disentangler is trained at least once.")
    if restarts > 1 and config["cluster"]["select"] is None:
        raise UserError(
            f"restarts is {restarts}, but nothing chooses among them: give cluster.select, such as "
            "--cluster.select.tries 6, or leave restarts out."
        )
    for name in config["discoveries"]:
        if re.fullmatch(r"restart\d+", name):
            raise UserError(f"a discovery is named {name!r}, as restarts are: take another name.")


def build_all(chain: Chain) -> Chain:
    """Build every model and data module once, which refuses what a later stage could not use.

    Returns:
        The chain with the fingerprint of the user's own data files.

    Raises:
        UserError: If the settings do not fit the data or each other.
    """
    _named(chain, "until")
    return replace(chain, files=_build(chain))


def stage_keys(chain: Chain) -> dict[str, str]:
    """Key of every stage that holds results, in the order of running, up to the last to run.

    Args:
        chain: A chain that knows the fingerprint of the data files.
    """
    keys: dict[str, str] = {}
    for stage in STAGES:
        for job in stage.jobs(chain):
            if not job.derived:
                upstream = {name: keys[name] for name in job.upstream}
                keys[job.name] = stage_key(job.name, job.settings, upstream)
        if stage.name == chain.config["until"]:
            break
    return keys


def fit(args: list[str], runner: Runner | None = None) -> int:
    """Run `detaux fit`: every stage that is not done yet.

    Args:
        args: Arguments of the command.
        runner: Runs the commands of the stages; by default in processes of their own.

    Returns:
        The exit code: that of the stage that failed, or 0.

    Raises:
        UserError: If the settings do not fit, or the run folder was made with others.
    """
    launched = "LOCAL_RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if launched or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise UserError(
            "`detaux fit` starts the processes of a stage itself: under torchrun or SLURM launch "
            "`detaux disentangle`, `detaux cluster` and `detaux multitask` one by one."
        )
    chain = parse(with_config(args))
    console = Console(stderr=True, highlight=False)
    with run_lock(chain.run_dir) as lock:
        _named(chain, "until")
        redo = _named(chain, "redo")
        chain = replace(chain, files=_build(chain))
        jobs = {stage.name: stage.jobs(chain) for stage in STAGES}
        # Nothing is removed before all else is known to fit.
        _check(chain, jobs, redo)
        _forget(chain, jobs, redo)
        write_text(chain.run_dir / "config.yaml", chain.source)
        code = _run(chain, jobs, runner or run_processes, lock, console)
    if code > 128:
        stopped(code)
    if code == 0 and chain.config["until"] in (None, STAGES[-1].name):
        _show(chain, console)
    if code == 0 and "WANDB_SWEEP_ID" in os.environ:
        from detaux_pl.cli.tracking import log_results

        log_results(chain.run_dir)
    return code


def _run(
    chain: Chain,
    stages: Mapping[str, list[Job]],
    runner: Runner,
    lock: int | None,
    console: Console,
) -> int:
    console.print(f"[bold]detaux[/] {chain.run_dir}")
    worst, lost = 0, set[str]()
    for number, (name, jobs) in enumerate(stages.items(), start=1):
        label = f"[dim]{number}/{len(stages)}[/] {name:<12}"
        for job in jobs:
            if not job.derived and not lost.isdisjoint(job.upstream):
                lost.add(job.name)
        pending = [job for job in jobs if job.name not in lost and not _is_done(chain, job)]
        if not jobs:
            console.print(f"{label} [dim]not asked for[/]")
        elif all(job.name in lost for job in jobs):
            console.print(f"{label} [yellow]left out[/], as nothing was found for it")
        elif not pending:
            console.print(f"{label} [green]complete[/], skipped")
        else:
            code = _run_stage(chain, pending, runner, lock, console, label)
            failed = {job.name for job in pending if not _folder(chain, job).complete}
            if code > 128 or (code and not all(map(_is_further, failed))):
                return code
            # Another discovery may find nothing: the arms of the others do not need it.
            worst, lost = max(worst, code), lost | failed
        if name == "cluster":
            _tell_verdicts(chain, jobs, pending, console)
            empty = {job.name for job in jobs if not found_task(_folder(chain, job).path)}
            if empty:
                worst, lost = max(worst, NOTHING_FOUND), lost | empty
            if "cluster" in empty:
                return _end_without_task(chain, runner, lock, console)
        if name == chain.config["until"]:
            break
    return worst


def _run_stage(
    chain: Chain, pending: list[Job], runner: Runner, lock: int | None, console: Console, label: str
) -> int:
    started = time.monotonic()
    alone = any(job.alone for job in pending)
    n_jobs = 1 if alone else _n_jobs(chain, pending[0])
    console.print(f"{label} running{f' {len(pending)} trainings' if n_jobs > 1 else ''}")
    commands = [_command(chain, job) for job in pending]
    code = 0
    with _Counter(chain, pending, console, shown=n_jobs > 1) as count:
        if alone:
            for command in commands:
                code = max(code, runner([[command]], lock, count))
                if code > 128:
                    return code
        else:
            # Dealt out in turn, so that each process gets its share of every arm.
            dealt = [commands[k::n_jobs] for k in range(min(n_jobs, len(commands)))]
            code = runner(dealt, lock, count)
    if code > 128:
        return code
    left = [job.name for job in pending if not _folder(chain, job).complete]
    if left:
        console.print(f"{label} [red]failed[/]: {', '.join(left)}")
        return max(code, 1)
    console.print(f"{label} [green]done[/] in {time.monotonic() - started:.0f} s")
    return code


def _tell_verdicts(
    chain: Chain, jobs: Sequence[Job], fresh: Sequence[Job], console: Console
) -> None:
    """Say whether a task worth training on was found, where that is new or none was."""
    for job in jobs:
        path = _folder(chain, job).path / CANDIDATES
        verdict = read_json(path)["verdict"] if path.is_file() else None
        if verdict is not None and (job in fresh or not verdict["found"]):
            discovery = job.config["discovery"]
            lead = "" if discovery is None else f"{discovery}: "
            console.print(f"{lead}{verdict['sentence']}", soft_wrap=True, markup=False)


def _end_without_task(chain: Chain, runner: Runner, lock: int | None, console: Console) -> int:
    """End a run that found no task worth training on, with a report that says so."""
    if chain.config["until"] not in (None, STAGES[-1].name):
        return NOTHING_FOUND
    label = f"[dim]{len(STAGES)}/{len(STAGES)}[/] {'report':<12}"
    return _run_stage(chain, _report(chain), runner, lock, console, label) or NOTHING_FOUND


def _folder(chain: Chain, job: Job) -> StageFolder:
    return StageFolder(chain.run_dir, job.name)


def _is_further(name: str) -> bool:
    """Whether a job is of a further discovery, without which a chain can go on."""
    return name.startswith("discoveries/") and not re.match(r"discoveries/restart\d+/", name)


def _is_done(chain: Chain, job: Job) -> bool:
    """Whether a job is complete and still made from what is there; refuses what is neither."""
    folder = StageFolder(chain.run_dir, job.name)
    if not folder.complete:
        return False
    try:
        folder.verify()
        folder.check_inputs()
    except ArtifactError:
        if not job.derived:
            raise
        shutil.rmtree(folder.path)
        return False
    return True


def _check(chain: Chain, stages: Mapping[str, list[Job]], redo: str | None) -> None:
    """Refuse, before anything runs, what was made with other settings."""
    keys: dict[str, str] = {}
    replaced = _following(stages, redo)
    for jobs in stages.values():
        for job in jobs:
            if job.name in replaced:
                continue
            upstream = {name: keys[name] for name in job.upstream}
            keys[job.name] = stage_key(job.name, job.settings, upstream)
            folder = StageFolder(chain.run_dir, job.name)
            try:
                folder.check(job.settings, upstream)
            except ArtifactError:
                if not job.derived:
                    raise
                shutil.rmtree(folder.path)
    for folder in _unwanted(chain):
        made_from = (folder.manifest or {})["upstream"]
        if redo not in ("refine", folder.name, "multitask") and replaced.isdisjoint(made_from):
            raise ArtifactError(
                f"{folder.path} holds refined labels, and refine.rounds is 0 now: give the rounds "
                "that it was made with, another --run_dir to keep both, or --redo refine to remove "
                "it."
            )


def _build(chain: Chain) -> str | None:
    """Build every model and data module once, to refuse now what a later stage could not use.

    Returns:
        The fingerprint of the user's own data files.
    """
    stages: list[tuple[dict[str, Any], type]] = [(chain.config["disentangle"], Disentangler)]
    stages += [
        (own.disentangle, Disentangler) for own in chain.discoveries.values() if own.disentangle
    ]
    stages += [(configs[0], MultitaskModel) for configs in chain.arms.values()]
    clusters = [chain.config["cluster"], *(own.cluster for own in chain.discoveries.values())]
    refines = [chain.config["refine"], *(own.refine for own in chain.discoveries.values())]
    for config in clusters:
        build_discovery(config)
    for config in refines:
        refuse_rounds(config, chain.config["nets"]["folds"])
    files = None
    for config, kind in stages:
        try:
            data = build(FactorDataModule, config["data"])
            if data.n_classes < 2:
                raise UserError(
                    f"{type(data.dataset).__name__} has {data.n_classes} class of "
                    f"{data.dataset.principal!r}: at least 2 are needed."
                )
            with torch.device("meta"):
                model = build(
                    kind,
                    config["model"],
                    image_shape=data.image_shape,
                    n_classes=data.n_classes,
                    task_sizes=_task_sizes(chain, config, data) if kind is MultitaskModel else None,
                )
            wanted, factors = chain.config["evaluate"], data.dataset.factor_names
            refuse_impossible_evaluation(wanted, factors)
            if config is chain.config["disentangle"] and wanted["metrics"] != []:
                shape = _code_shape(model, config["model"], data)
                if shape is not None:
                    refuse_impossible_metrics(wanted, factors, *shape)
            files = data.dataset.fingerprint() if files is None else files
        except (ValueError, TypeError) as error:
            raise explain(error) from error
    numbers: set[int] = set()
    for cluster, refine in zip(clusters, refines, strict=True):
        numbers |= {1, 2, 1 + cluster["n_tasks"]} if cluster["select"] is not None else set()
        numbers |= {1 + cluster["n_tasks"]} if refine["rounds"] else set()
    if numbers:  # all that train nets train the same
        _build_nets(next(each["nets"] for each in (*clusters, *refines) if each["nets"]), numbers)
    return files


def _build_nets(nets: dict[str, Any], numbers: Collection[int]) -> None:
    """Build nets of given numbers of tasks once, as `_build` does the models."""
    data = build(FactorDataModule, nets["data"])  # which was built for the main arm before
    for n_tasks in sorted(numbers):
        sizes = (data.n_classes, *[2] * (n_tasks - 1))
        config = nets["single" if n_tasks == 1 else "model"]
        try:
            with torch.device("meta"):
                build(MultitaskModel, config, image_shape=data.image_shape, task_sizes=sizes)
        except (ValueError, TypeError) as error:
            line = explain(error)
            raise UserError(f"nets.model, of {n_tasks} task(s): {line}") from error


def _code_shape(
    model: Disentangler, config: dict[str, Any], data: FactorDataModule
) -> tuple[int, int] | None:
    """Subspaces and dimensions of the codes, told without training.

    Args:
        model: The disentangler on the meta device.
        config: What it was built from.
        data: Its images.

    Returns:
        The shape; None for a model that must be trained before it encodes.
    """
    size = (1, *data.image_shape)
    with torch.no_grad():
        try:
            codes = model.eval().encode_all(torch.zeros(size, device="meta"))
        except RuntimeError:
            # A model that looks at its own numbers needs some.
            filled = {"image_shape": data.image_shape, "n_classes": data.n_classes}
            model = build(Disentangler, config, **filled)
            try:
                codes = model.eval().encode_all(torch.zeros(size))
            except RuntimeError:
                return None
    _, n_subspaces, dims = next(iter(codes.values())).shape
    return n_subspaces, dims


def _task_sizes(chain: Chain, config: dict[str, Any], data: Any) -> tuple[int, ...]:
    """Number of classes of each task; two stand for one that is yet to be discovered."""
    if not needs_labels(config):
        sizes: tuple[int, ...] = data.task_sizes
        return sizes
    name = config["discovery"]
    cluster = chain.config["cluster"] if name is None else chain.discoveries[name].cluster
    return (data.n_classes, *[2] * cluster["n_tasks"])


def _unwanted(chain: Chain) -> list[StageFolder]:
    """Stages of refined labels that are there, and not asked for any more."""
    wanted: dict[str | None, int] = {None: chain.config["refine"]["rounds"]}
    wanted |= {name: own.refine["rounds"] for name, own in chain.discoveries.items()}
    names = [discovery_folder("refine", name) for name, rounds in wanted.items() if not rounds]
    folders = [StageFolder(chain.run_dir, name) for name in names]
    return [folder for folder in folders if folder.manifest is not None]


def _forget(chain: Chain, jobs: Mapping[str, list[Job]], redo: str | None) -> None:
    """Remove a stage that is to be made again, with what follows, and refined labels not wanted."""
    for folder in _unwanted(chain):
        shutil.rmtree(folder.path)
    if redo is not None:
        shutil.rmtree(chain.run_dir / redo, ignore_errors=True)
    for name in _following(jobs, redo):
        shutil.rmtree(chain.run_dir / name, ignore_errors=True)


def _following(stages: Mapping[str, list[Job]], redo: str | None) -> set[str]:
    """Name the jobs of the stage that is to be made again, and all that read what they write."""
    names: set[str] = set()
    for stage, jobs in stages.items():
        for job in jobs:
            if redo in (stage, redo_name(job.name)) or not names.isdisjoint(job.upstream):
                names.add(job.name)
    return names


def _named(chain: Chain, option: str) -> str | None:
    """Return the stage that an option names; refuses what is none."""
    name: str | None = chain.config[option]
    names = [stage.name for stage in STAGES]
    if option == "redo":
        names += [
            discovery_folder(stage, discovery)
            for discovery, own in chain.discoveries.items()
            for stage in (("disentangle", "cluster") if own.disentangle else ("cluster",))
        ]
        names += [
            discovery_folder("refine", name)
            for name, own in chain.discoveries.items()
            if own.refine["rounds"]
        ]
        names += [
            discovery_folder("disentangle", config["discovery"])
            for config in _restarts(chain.config)
            if config["discovery"]
        ]
    if name is not None and name not in names:
        raise UserError(f"--{option} is {name!r}: {closest(name, names)}")
    return name


def _n_jobs(chain: Chain, job: Job) -> int:
    """How many trainings run at once: on the CPU one per core, which small nets use best."""
    if job.command != ("multitask", "fit"):
        return 1
    if chain.config["jobs"] is not None:
        return max(1, int(chain.config["jobs"]))
    return (os.cpu_count() or 1) if on_cpu(job.config) else 1


class _Counter:
    """A bar that counts the finished trainings, where they show none themselves."""

    def __init__(self, chain: Chain, jobs: list[Job], console: Console, shown: bool) -> None:
        self.folders = [StageFolder(chain.run_dir, job.name) for job in jobs]
        self.progress = Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), console=console, transient=True,
            disable=not shown or not console.is_terminal,
        )  # fmt: skip
        self.task = self.progress.add_task("trainings", total=len(jobs))

    def __enter__(self) -> _Counter:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def __call__(self) -> None:
        if not self.progress.disable:
            done = sum(folder.complete for folder in self.folders)
            self.progress.update(self.task, completed=done)


def _command(chain: Chain, job: Job) -> list[str]:
    path = chain.run_dir / job.name / "config.yaml"
    write_text(path, yaml.safe_dump(job.config, sort_keys=False))
    return [*job.command, "--config", str(path)]


def _show(chain: Chain, console: Console) -> None:
    from detaux_pl.evaluation.report import arms_table

    folder = chain.run_dir / "report"
    Console().print(arms_table(read_json(folder / "report.json")))
    console.print(f"report: [link]{folder / 'report.html'}[/]")


def _n_devices(trainer: dict[str, Any]) -> int:
    """How many processes a trainer's configuration starts, here and on other machines."""
    devices = trainer["devices"]
    if isinstance(devices, list):
        count = len(devices)
    elif devices in ("auto", -1, "-1"):
        on_cpu = trainer["accelerator"] == "cpu" or not torch.cuda.is_available()
        count = 1 if on_cpu else torch.cuda.device_count()
    else:
        text = str(devices)
        if not re.fullmatch(r"\d+(,\d+)*,?", text):
            raise UserError(f"trainer.devices is {text!r}: give a number, a list or auto.")
        count = len(text.strip(",").split(",")) if "," in text else int(text)
    return count * int(trainer["num_nodes"])
