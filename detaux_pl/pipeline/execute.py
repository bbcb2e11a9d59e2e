"""The jobs of a chain, run stage by stage; each stage is a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.text import Text

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.exit_codes import NOTHING_FOUND
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.artifacts.terminal import words
from detaux_pl.artifacts.yaml_text import dump_yaml
from detaux_pl.pipeline.costs import Costs
from detaux_pl.pipeline.forecast import Forecast, foresee, left_of
from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.pipeline.plan import Plan
from detaux_pl.pipeline.process import Runner
from detaux_pl.pipeline.stages.cluster import found_task, read_verdict, told
from detaux_pl.pipeline.trainings import at_once
from detaux_pl.report.wording import plural
from detaux_pl.settings.names import needs_labels


def execute(
    chain: Chain,
    plan: Plan,
    runner: Runner,
    lock: int | None,
    console: Console,
    costs: Costs | None = None,
) -> int:
    """Run every job that is not done yet.

    Args:
        chain: The chain.
        plan: Its jobs.
        runner: Runs the commands of the stages.
        lock: Descriptor of the run folder's lock.
        console: Where progress is told.
        costs: What was timed already.

    Returns:
        The exit code: that of the stage that failed, of nothing found, or 0.
    """
    console.print(Text.assemble(("detaux", "bold"), f" {chain.run_dir}"))
    forecast = Forecast({}, {})
    if "DETAUX_STAGE" not in os.environ:  # a sweep says it of all its trials
        forecast, line = foresee(chain, plan, costs or Costs())
        if line:
            console.print(line, soft_wrap=True)
    worst, lost = 0, set[str]()
    for number, (name, jobs) in enumerate(plan.items(), start=1):
        label = _label(number, plan, name)
        for job in jobs:
            if not job.derived and not lost.isdisjoint(job.upstream):
                lost.add(job.name)
        pending = [job for job in jobs if job.name not in lost and not _is_done(chain, job)]
        if not jobs:
            console.print(label, Text("not asked for", "dim"))
        elif all(job.name in lost for job in jobs):
            console.print(
                label, Text.assemble(("left out", "yellow"), ", as nothing was found for it")
            )
        elif not pending:
            console.print(label, Text.assemble(("complete", "green"), ", skipped"))
        else:
            code = _run_stage(chain, pending, runner, lock, console, label, forecast)
            failed = {job.name for job in pending if not _folder(chain, job).complete}
            needed = {name for name in failed if not _can_miss(chain, name)}
            if code > 128 or (code and needed):
                return code
            worst, lost = max(worst, code), lost | failed
        if name == "cluster":
            _tell_verdicts(chain, jobs, pending, console)
            empty = {job.name for job in jobs if not found_task(_folder(chain, job))}
            if empty:
                worst, lost = max(worst, NOTHING_FOUND), lost | empty
            if "cluster" in empty and needs_labels(chain.config["multitask"]):
                return _end_without_task(chain, plan, runner, lock, console)
        if name == chain.config["until"]:
            break
    return worst


def _run_stage(
    chain: Chain,
    pending: list[Job],
    runner: Runner,
    lock: int | None,
    console: Console,
    label: Text,
    forecast: Forecast,
) -> int:
    started = time.monotonic()
    alone = any(job.alone for job in pending)
    n_jobs = 1 if alone else at_once(chain, pending[0])
    what = f" {plural(len(pending), 'training')}" if n_jobs > 1 else ""
    console.print(label, f"running{what}")
    commands = [_command(chain, job) for job in pending]
    code = 0
    forecast.begin(pending[0].command[0])
    with _Counter(chain, pending, console, forecast, shown=n_jobs > 1) as count:
        if alone:
            for command in commands:
                code = max(code, runner([[command]], lock, count))
                if code > 128:
                    return code
        else:
            # Dealt out in turn, so that each process gets its share of every arm.
            dealt = [commands[k::n_jobs] for k in range(min(n_jobs, len(commands)))]
            code = runner(dealt, lock, count)
    forecast.end()
    if code > 128:
        return code
    left = [job.name for job in pending if not _folder(chain, job).complete]
    if left:
        diverged = [name for name in left if StageFolder(chain.run_dir, name).diverged]
        for what, names in (("failed", {*left} - {*diverged}), ("diverged", {*diverged})):
            if names:
                listed = ", ".join(name for name in left if name in names)
                console.print(label, Text.assemble((what, "red"), f": {listed}"))
        return max(code, 1)
    console.print(
        label, Text("done", "green"),
        f"in {time.monotonic() - started:.0f} s{left_of(forecast, '; ')}",
    )  # fmt: skip
    return code


def _tell_verdicts(
    chain: Chain, jobs: Sequence[Job], fresh: Sequence[Job], console: Console
) -> None:
    """Say whether a task worth training on was found, where that is new or none was."""
    for job in jobs:
        verdict = read_verdict(_folder(chain, job))
        if job in fresh or (verdict is not None and not verdict["found"]):
            discovery = job.config["discovery"]
            lead = "" if discovery is None else f"{discovery}: "
            for sentence in told(_folder(chain, job)):
                console.print(f"{lead}{sentence}", soft_wrap=True)


def _end_without_task(
    chain: Chain, plan: Plan, runner: Runner, lock: int | None, console: Console
) -> int:
    """End a run that found no task worth training on, with a report that says so."""
    *_, last = plan
    if chain.config["until"] not in (None, last):
        return NOTHING_FOUND
    label = _label(len(plan), plan, last)
    code = _run_stage(chain, plan[last], runner, lock, console, label, Forecast({}, {}))
    return code or NOTHING_FOUND


def _label(number: int, plan: Plan, stage: str) -> Text:
    return Text.assemble((f"{number}/{len(plan)}", "dim"), f" {stage:<12}")


def _folder(chain: Chain, job: Job) -> StageFolder:
    return StageFolder(chain.run_dir, job.name)


def _can_miss(chain: Chain, name: str) -> bool:
    """Whether a chain can go on without a job: one of a further discovery, or an arm that diverged.

    The arms of the other discoveries do not need it, and a training that diverged is a result.
    """
    if name.startswith("multitask/"):
        return StageFolder(chain.run_dir, name).diverged is not None
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


class _Counter:
    """A bar that counts the finished trainings, where they show none themselves."""

    def __init__(
        self, chain: Chain, jobs: list[Job], console: Console, forecast: Forecast, shown: bool
    ) -> None:
        self.folders = [StageFolder(chain.run_dir, job.name) for job in jobs]
        self.forecast = forecast
        self.progress = Progress(
            words("  {task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), words("{task.fields[left]}"), console=console, transient=True,
            disable=not shown or not console.is_terminal,
        )  # fmt: skip
        self.task = self.progress.add_task("trainings", total=len(jobs), left="")

    def __enter__(self) -> _Counter:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def __call__(self) -> None:
        if not self.progress.disable:
            done = {folder.name for folder in self.folders if folder.complete}
            self.forecast.see(done)
            left = left_of(self.forecast)
            self.progress.update(self.task, completed=len(done), left=left)


def _command(chain: Chain, job: Job) -> list[str]:
    path = chain.run_dir / job.name / "config.yaml"
    write_text(path, dump_yaml(job.config))
    return [*job.command, "--config", str(path)]
