"""`detaux sweep`: a grid or random search over any settings of a chain."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Literal

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.exit_codes import CRASH, OK, stopped
from detaux_pl.artifacts.files import sweep_up, write_text
from detaux_pl.artifacts.lock import run_lock
from detaux_pl.cli.table import put_out
from detaux_pl.evaluation.results import read_results
from detaux_pl.pipeline.study import Parameters, Record, open_record
from detaux_pl.pipeline.sweep_plan import (
    STATES,
    Plan,
    enrol,
    foresee_trials,
    key_of,
    pending_trials,
    prepare,
    read_plan,
    refuse_other_plan,
    wanted_trials,
)
from detaux_pl.pipeline.trials import Child, Shelf, Start, Sweep, Turns, start_process
from detaux_pl.report.sweep_table import (
    Outcome,
    SweepTable,
    remarks,
    tabulate,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
    to_rich,
)
from detaux_pl.settings.parser import ShortParser, config_parser
from detaux_pl.settings.places import config_file


def sweep_parser() -> ShortParser:
    """Return the parser of the command."""
    parser = config_parser(ShortParser, prog="detaux sweep")
    parser.add_argument("--sweep_dir", type=str, default="runs/sweep", help="Folder of the sweep.")
    parser.add_argument(
        "--chain", type=str | dict[str, Any] | None, default=None,
        help="The chain that every trial runs: a file, or its settings.",
    )  # fmt: skip
    parser.add_argument(
        "--until", type=str | None, default=None, help="Last stage of every trial; null for all."
    )
    parser.add_argument(
        "--sampler", type=Literal["grid", "random"], default="grid",
        help="grid for every combination of the choices, random for n_trials of them.",
    )  # fmt: skip
    parser.add_argument(
        "--n_trials", type=int | None, default=None, help="Number of random trials."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random trials.")
    parser.add_argument(
        "--jobs", type=int | None, default=None,
        help="Trials at once; null for one per core, or one on an accelerator.",
    )  # fmt: skip
    parser.add_argument(
        "--parameters", type=dict[str, Any], default={},
        help="Dotted settings of the chain with their choices, ranges or named variants.",
    )  # fmt: skip
    parser.add_argument(
        "--columns", type=list[str] | None, default=None,
        help="Results that the tables show, such as metrics.mig; null for all scores.",
    )  # fmt: skip
    parser.add_argument(
        "--storage", type=str | None, default=None,
        help="Record of a sweep that several processes or machines run, each by this command: URL "
        "of a database, or path of a journal file. All see sweep_dir. Null for this process alone.",
    )  # fmt: skip
    parser.add_argument(
        "--wandb_file", type=str | None, default=None,
        help="Write the sweep to this file for the agents of W&B, and run nothing.",
    )  # fmt: skip
    return parser


def run(args: list[str], start: Callable[[Start], Child] = start_process) -> int:
    """Run `detaux sweep`: every trial that is not complete yet, then the tables of all.

    Args:
        args: Arguments of the command.
        start: Starts a trial; by default in a process of its own.

    Returns:
        The exit code: 0, 1 if a trial failed, 130 or 143 after a signal.

    Raises:
        UserError: If the settings do not fit, or the folder is that of another sweep.
    """
    config_file(args)
    config = sweep_parser().parse_args(args)
    plan = read_plan(config, args)
    if config.wandb_file is not None:
        from detaux_pl.pipeline.wandb_sweep import write_wandb_sweep

        write_wandb_sweep(Path(config.wandb_file), plan)
        return OK
    turns = None if plan.storage is None else Turns(plan.room)
    turn = nullcontext if turns is None else turns.turn
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(run_lock(plan.folder, shared=turns is not None))
        except ArtifactError as error:
            raise UserError(str(error).replace("--run_dir", "--sweep_dir")) from None
        if turns is None:
            sweep_up(plan.folder)
        else:
            stack.callback(turns.close)
        with turn():  # the first of several begins the record
            record = stack.enter_context(
                open_record(plan.folder / "study.db", plan.distributions, plan.storage)
            )
        refuse_other_plan(plan, record.study.user_attrs.get("plan"))
        wanted = wanted_trials(plan, record.entries)
        pending = pending_trials(wanted, record.entries)

        def write() -> SweepTable:
            with turn():
                return _write(plan, wanted, record)

        code = OK
        if pending:
            prepared, chains, on_cpu = prepare(plan, [parameters for parameters, _ in pending])
            with turn():
                said = refuse_other_plan(plan, record.study.user_attrs.get("plan"))
                record.study.set_user_attr("plan", said)
                known = {key_of(entry.parameters): entry for entry in record.entries}
                trials = [
                    enrol(plan, record, parameters, known.get(key_of(parameters)), *each, turns)
                    for (parameters, _), each in zip(pending, prepared, strict=True)
                ]
            n_jobs = plan.jobs or (os.cpu_count() or 1 if on_cpu else 1)
            n_at_once = min(n_jobs, len(trials))
            forecast, line = foresee_trials(trials, chains, Shelf(plan.room).stages, n_at_once)
            if line:
                print(line, file=sys.stderr)
            sweep = Sweep(
                trials, record, plan.room, plan.until, n_jobs, on_cpu, start, lock, turns,
                forecast.telling(f"{len(trials)} trials"),
            )  # fmt: skip
            code = sweep.run(write)
        table = write()
        with turn():
            _show(plan, table)
    if code:
        return stopped(code)
    # What others run is not done yet.
    lacking = {"failed"} if turns is not None else {"failed", "unfinished"}
    return CRASH if lacking & {each.state for each in table.outcomes} else OK


def _write(plan: Plan, wanted: Sequence[Parameters], record: Record) -> SweepTable:
    """Write the tables, as far as the trials have come."""
    known = {key_of(entry.parameters): entry for entry in record.entries}
    outcomes = []
    for parameters in wanted:
        entry = known[key_of(parameters)]
        folder, state = plan.room / str(entry.number), STATES[entry.state]
        results = read_results(folder) or entry.results if state == "complete" else {}
        error = entry.error if state == "failed" else ""
        outcomes.append(Outcome(entry.number, state, entry.parameters, results, error))
    table = tabulate(outcomes, plan.columns)
    for name, content in (
        ("table.csv", to_csv(table)),
        ("sweep.md", to_markdown(table)),
        ("sweep.tex", to_latex(table)),
    ):
        write_text(plan.folder / name, content)
    return table


def _show(plan: Plan, table: SweepTable) -> None:
    """Write the page, unless it shows the same already, and print the table."""
    page, numbers = plan.folder / "sweep.html", plan.folder / "sweep.json"
    content = to_json(table)
    if not page.is_file() or not numbers.is_file() or numbers.read_bytes() != content.encode():
        # matplotlib takes longer to import than all else that a complete sweep needs.
        from detaux_pl.report.sweep_page import render_sweep

        write_text(page, render_sweep(table, plan.folder.resolve().name, plan.command))
        write_text(numbers, content)
    put_out(to_rich(table), None)
    for line in remarks(table):
        print(line, file=sys.stderr)
    print(f"page: {page}", file=sys.stderr)
