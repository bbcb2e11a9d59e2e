"""The stage that shows what a run found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.run_stage import run_stage
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.inference.run import Run
from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.pipeline.stage import OF_CHAIN
from detaux_pl.pipeline.stages.cluster import found_task
from detaux_pl.report.report import write_report, write_report_without_task
from detaux_pl.settings.build import StageConfig
from detaux_pl.settings.names import arm_folder, discovery_folder, discovery_folders
from detaux_pl.settings.parser import ShortParser, config_parser
from detaux_pl.settings.places import PLACES, follow_folder, remember_places


def parser() -> ShortParser:
    """Return the parser of the stage."""
    made = config_parser(ShortParser, prog="detaux report")
    made.add_argument("--run_dir", type=str, default="runs/detaux", help="Folder of the run.")
    made.add_argument(
        "--arms", type=list[str] | None, default=None,
        help="Arms to show, the main one first; null for all that are trained.",
    )  # fmt: skip
    made.add_argument(
        "--discoveries", type=list[str] | None, default=None,
        help="Further discoveries to show; null for all that were made.",
    )  # fmt: skip
    made.add_argument(
        "--seeds", type=list[int] | None, default=None,
        help="Seeds that every arm was to have; null for those that are trained.",
    )  # fmt: skip
    for name in PLACES:
        made.add_argument(
            f"--dataset.{name}", type=str | None, default=None,
            help="Where the data lie now, as the data set calls it; null for where they were last.",
        )  # fmt: skip
    return made


def run(args: list[str]) -> int:
    """Run `detaux report`: make it anew from what the run folder holds."""
    config = parser().parse_args(follow_folder(args))
    given = {name: place for name, place in vars(config.dataset).items() if place is not None}
    run_ = Run(config.run_dir, given)
    tried = run_.candidates
    folder = StageFolder(run_.run_dir, "report")
    if tried is not None and not tried["verdict"]["found"]:

        def tell() -> list[Path]:
            write_report_without_task(run_.run_dir)
            return [folder.path / name for name in ("report.html", "report.json")]

        run_stage(folder, {}, ["disentangle", "disentangle/codes", "cluster"], tell, redo=True)
        return 0
    if not run_.arms and not config.arms:
        raise ArtifactError(
            f"{run_.run_dir} has no trained network: run `detaux multitask fit` first."
        )
    arms = config.arms or _arms(run_)
    seeds = config.seeds or sorted({seed for arm in arms for seed in run_.arms.get(arm, [])})
    discoveries = _discoveries(run_) if config.discoveries is None else config.discoveries
    discoveries = [name for name in discoveries if _has_task(run_, name)]
    further = [discovery_folder("", name).rstrip("/") for name in discoveries]
    # Arms have folders of their own below that of their stage.
    names = [stage.name for stage in OF_CHAIN if stage.name != "multitask"]
    names += [f"{name}/{stage.name}" for stage in OF_CHAIN if stage.further for name in further]
    names += [f"{name}/codes" for name in names if name.endswith("disentangle")]
    # The main discovery must be there; of the others and of the probes, what is.
    upstream = [
        name
        for name in names
        if name in ("disentangle", "disentangle/codes", "cluster") or _has(run_, name)
    ]
    upstream += [
        f"{arm_folder(arm)}/seed{seed}"
        for seed in seeds
        for arm in arms
        if seed in run_.arms.get(arm, [])
    ]

    def work() -> list[Path]:
        baseline = _baseline(run_, arms)
        write_report(
            run_.run_dir, arms, baseline, seeds, run_.data.images, run_.disentangler, discoveries
        )
        remember_places(run_.run_dir, run_.data_config)
        names = ("report.html", "report.json", "figures/*.png")
        return [path for name in names for path in folder.path.glob(name)]

    # The report only shows the other stages: making it anew loses nothing.
    shown = {"arms": arms, "discoveries": discoveries, "seeds": seeds}
    run_stage(folder, shown, upstream, work, redo=True)
    return 0


def _discoveries(run_: Run) -> list[str]:
    """Name the further discoveries."""
    return sorted(discovery_folders(run_.run_dir))


def _has_task(run_: Run, discovery: str) -> bool:
    stage = discovery_folder("cluster", discovery)
    return _has(run_, stage) and found_task(StageFolder(run_.run_dir, stage))


def _has(run_: Run, stage: str) -> bool:
    return StageFolder(run_.run_dir, stage).complete


def _arms(run_: Run) -> list[str]:
    """Name the trained arms in the order to show them: main one, baselines, controls."""

    def place(arm: str) -> tuple[bool, bool, str]:
        config = _config(run_, arm)
        given = config["data"].get("init_args", {})
        control = given.get("auxiliary", "discovered") != "discovered"
        return control, not _model(config).uses_auxiliary, arm

    return sorted(run_.arms, key=place)


def _baseline(run_: Run, arms: Sequence[str]) -> str:
    """Name the arm that the others are tested against: what the main one would be by itself."""
    models = {arm: _model(_config(run_, arm)) for arm in arms if arm in run_.arms}
    alone = [arm for arm, model in models.items() if not model.uses_auxiliary]
    main = models.get(arms[0])
    for arm in alone:
        if main is not None and arm != arms[0] and issubclass(main, models[arm]):
            return arm
    return "single_task" if "single_task" in arms else next(iter(alone), arms[0])


def _config(run_: Run, arm: str) -> StageConfig:
    folder = StageFolder(run_.run_dir, f"{arm_folder(arm)}/seed{run_.arms[arm][0]}")
    return folder.read("config.yaml", StageConfig)


def _model(config: StageConfig) -> Any:
    return locate(config["model"]["class_path"])


def jobs(chain: Chain, before: Sequence[Job]) -> list[Job]:
    """Show all that the other stages found."""
    upstream = tuple(job.name for job in before)
    seeds = [chain.config["seed"] + k for k in range(chain.config["seeds"])]
    shown = {
        "arms": list(chain.arms), "discoveries": list(chain.discoveries), "seeds": seeds
    }  # fmt: skip
    config = {"run_dir": chain.config["run_dir"], **shown}
    return [Job("report", ("report",), config, shown, upstream, alone=True, derived=True)]
