"""`detaux fit`: a thin planner over the stages, each a process of its own."""

from __future__ import annotations

import os

from rich.console import Console
from rich.style import Style
from rich.text import Text

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import stopped
from detaux_pl.artifacts.files import sweep_up, write_text
from detaux_pl.artifacts.lock import run_lock
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.artifacts.terminal import terminal
from detaux_pl.evaluation.results import read_report
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.checks import build_all, check_folders
from detaux_pl.pipeline.costs import Costs
from detaux_pl.pipeline.execute import execute
from detaux_pl.pipeline.fork_server import fork_server
from detaux_pl.pipeline.given import with_config
from detaux_pl.pipeline.job import Chain
from detaux_pl.pipeline.plan import forget, plan_jobs, stage_to_redo
from detaux_pl.pipeline.process import Runner, run_processes
from detaux_pl.pipeline.stage import STAGES
from detaux_pl.settings.places import remember_places


def run(args: list[str], runner: Runner = run_processes) -> int:
    """Run `detaux fit`: every stage that is not done yet.

    Args:
        args: Arguments of the command.
        runner: Runs the commands of the stages; by default in processes of their own.

    Returns:
        The exit code: that of the stage that failed, or 0.

    Raises:
        UserError: If the settings do not fit, or the run folder was made with others.
    """
    refuse_launched("fit")
    chain = parse(with_config(args))
    console = terminal(stderr=True)
    with fork_server():
        code = run_chain(chain, runner, console)
    if code > 128:
        stopped(code)
    last = STAGES[-1].name
    if chain.config["until"] in (None, last) and (code == 0 or has_diverged(chain)):
        _show(chain, console)
    if code == 0 and "WANDB_SWEEP_ID" in os.environ:
        from detaux_pl.training.tracking import log_results

        log_results(chain.run_dir)
    return code


def refuse_launched(command: str) -> None:
    """Refuse to start processes in each of several that a launcher started.

    Raises:
        UserError: If there is a launcher.
    """
    launched = "LOCAL_RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if launched or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise UserError(
            f"`detaux {command}` starts the processes of a stage itself: under torchrun or SLURM "
            "launch `detaux disentangle`, `detaux cluster` and `detaux multitask` one by one."
        )


def run_chain(chain: Chain, runner: Runner, console: Console, costs: Costs | None = None) -> int:
    """Run every stage of a chain that is not done yet.

    Args:
        chain: The chain.
        runner: Runs the commands of the stages.
        console: Where progress is told.
        costs: What was timed already.

    Returns:
        The exit code: that of the stage that failed, or 0.

    Raises:
        UserError: If the settings do not fit, or the run folder was made with others.
    """
    with run_lock(chain.run_dir) as lock:
        if lock is not None:
            sweep_up(chain.run_dir)
        redo = stage_to_redo(chain, plan_jobs(chain))
        chain = build_all(chain)
        plan = plan_jobs(chain)
        # Nothing is removed before all else is known to fit.
        check_folders(chain, plan, redo)
        remember_places(chain.run_dir, chain.config["disentangle"]["data"])
        forget(chain, plan, redo)
        write_text(chain.run_dir / "config.yaml", chain.source)
        return execute(chain, plan, runner, lock, console, costs)


def has_diverged(chain: Chain) -> bool:
    """Whether the report is made though arms of it diverged."""
    names = (f"multitask/{arm}/seed*" for arm in chain.arms)
    folders = (path for name in names for path in chain.run_dir.glob(name))
    diverged = any(StageFolder(path, "").diverged for path in folders)
    return diverged and StageFolder(chain.run_dir, "report").complete


def _show(chain: Chain, console: Console) -> None:
    from detaux_pl.report.report import arms_table

    folder = chain.run_dir / "report"
    terminal().print(arms_table(read_report(chain.run_dir)))
    page = str(folder / "report.html")
    console.print(Text.assemble("report: ", (page, Style(link=page))))
