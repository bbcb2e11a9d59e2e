"""`detaux sweep`: a grid or random search over any settings of a chain."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.lock import run_lock
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.artifacts.stage import first_difference
from detaux_pl.cli.main import CRASH, OK, stopped
from detaux_pl.cli.parameters import (
    Parameter,
    read_chain,
    read_parameters,
    refuse_repeated,
    vary,
)
from detaux_pl.cli.parser import ShortParser, config_parser
from detaux_pl.cli.study import Entry, Parameters, Record, draw, open_record
from detaux_pl.cli.table import put_out
from detaux_pl.cli.trials import Child, Start, Sweep, Trial, start_process
from detaux_pl.evaluation.results import read_results
from detaux_pl.evaluation.sweep_table import (
    Outcome,
    State,
    SweepTable,
    in_words,
    remarks,
    tabulate,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
    to_rich,
)

_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
    TrialState.WAITING: "unfinished",
}


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Args:
        folder: Folder of the sweep.
        chain: The settings that all trials share.
        until: The last stage of every trial; None for all.
        sampler: `grid` or `random`.
        n_trials: Number of random trials.
        seed: Seed of the random draws.
        jobs: Trials at once; None for as many as the hardware suggests.
        parameters: What differs between the trials.
        columns: What the tables show; None for all scores.
        command: The command, to be shown.
    """

    folder: Path
    chain: dict[str, Any]
    until: str | None
    sampler: str
    n_trials: int | None
    seed: int
    jobs: int | None
    parameters: list[Parameter]
    columns: list[str] | None
    command: str

    @property
    def room(self) -> Path:
        """Folder of the trials."""
        return self.folder / "trials"

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What the value of each parameter is taken from."""
        return {each.name: each.distribution for each in self.parameters}

    def settings(self, values: Parameters) -> dict[str, Any]:
        """Settings of the chain of one trial."""
        said: dict[str, Any] = {}
        for each in self.parameters:
            said |= each.settings(values[each.name])
        return vary(self.chain, said)


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
    config = sweep_parser().parse_args(args)
    plan = read_plan(config, args)
    if config.wandb_file is not None:
        from detaux_pl.cli.wandb_sweep import write_wandb_sweep

        write_wandb_sweep(Path(config.wandb_file), plan)
        return OK
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(run_lock(plan.folder))
        except ArtifactError as error:
            raise UserError(str(error).replace("--run_dir", "--sweep_dir")) from None
        record = stack.enter_context(open_record(plan.folder / "study.db", plan.distributions))
        said = _refuse_other_plan(plan, record.study.user_attrs.get("plan"))
        wanted = _wanted(plan, record.entries)
        pending = _pending(wanted, record.entries)
        code = OK
        if pending:
            prepared, on_cpu = _check(plan, [parameters for parameters, _ in pending])
            record.study.set_user_attr("plan", said)
            trials = [
                _enrol(plan, record, parameters, entry, *each)
                for (parameters, entry), each in zip(pending, prepared, strict=True)
            ]
            n_jobs = plan.jobs or (os.cpu_count() or 1 if on_cpu else 1)
            sweep = Sweep(trials, record, plan.room, plan.until, n_jobs, on_cpu, start, lock)
            code = sweep.run(lambda: _write(plan, wanted, record))
        table = _write(plan, wanted, record)
        _show(plan, table)
    if code:
        return stopped(code)
    return OK if all(each.state == "complete" for each in table.outcomes) else CRASH


def read_plan(config: Any, args: Sequence[str]) -> Plan:
    """Read what a sweep is to do.

    Args:
        config: The parsed arguments.
        args: The arguments.

    Raises:
        UserError: If something contradicts itself or is missing.
    """
    if (config.sampler == "random") != (config.n_trials is not None):
        raise UserError(
            "sampler is random, which needs the number of its trials: give n_trials."
            if config.n_trials is None
            else f"n_trials is {config.n_trials}, but a grid has as many trials as combinations: "
            "leave it out, or set sampler: random."
        )
    for name in ("n_trials", "jobs"):
        if config[name] is not None and config[name] < 1:
            raise UserError(f"{name} is {config[name]}: give at least 1.")
    file = _config_file(config)
    if file is not None:
        refuse_repeated(file)
    return Plan(
        folder=Path(config.sweep_dir),
        chain=read_chain(config.chain, _folder_of("chain", config, args)),
        until=config.until,
        sampler=config.sampler,
        n_trials=config.n_trials,
        seed=config.seed,
        jobs=config.jobs,
        parameters=read_parameters(
            config.parameters, _folder_of("parameters", config, args), config.sampler
        ),
        columns=config.columns,
        command=shlex.join(["detaux", "sweep", *args]),
    )


def _folder_of(name: str, config: Any, args: Sequence[str]) -> Path:
    """Folder that the files named in a setting are relative to: that of the file that says it."""
    file = _config_file(config)
    if file is None or any(word.split("=")[0] == f"--{name}" for word in args):
        return Path()
    return file.parent


def _config_file(config: Any) -> Path | None:
    """The file of the settings; None where they were given in words."""
    files = [file for file in config.config or () if file is not None]
    return Path(str(files[-1].relative)) if files else None


def _refuse_other_plan(plan: Plan, before: dict[str, Any] | None) -> dict[str, Any]:
    """Refuse to go on with other settings than those of the trials that are there.

    Args:
        plan: What is to be done.
        before: What this function returned for the last plan; None for none.

    Returns:
        What the next plan is to agree with.

    Raises:
        UserError: If it does not agree with the last one.
    """
    variants = {p.name: p.variants for p in plan.parameters if p.variants is not None}
    said: dict[str, Any] = {
        "chain": plan.chain,
        "until": plan.until,
        "parameters": sorted(each.name for each in plan.parameters),
        "variants": variants,
    }
    said = json.loads(json.dumps(said, default=str))
    if before is None:
        return said
    for name, known in before["variants"].items():
        # There may be more of them now; those that are gone may come back.
        now = said["variants"][name] = {**known, **said["variants"].get(name, {})}
        known |= {label: settings for label, settings in now.items() if label not in known}
    change = first_difference(before, said)
    if change is not None:
        raise UserError(
            f"{plan.folder} was made with other settings: {change}. A sweep may get more choices "
            "of its parameters and more trials; give another --sweep_dir for anything else."
        )
    return said


def _wanted(plan: Plan, entries: Sequence[Entry]) -> list[Parameters]:
    """Parameters of every trial, those of complete ones that the plan has no more among them."""
    complete = {_key(e.parameters): e.parameters for e in entries if e.state == TrialState.COMPLETE}
    if plan.n_trials is None:
        names = [each.name for each in plan.parameters]
        choices = itertools.product(*(each.choices for each in plan.parameters))
        asked = [dict(zip(names, values, strict=True)) for values in choices]
    else:
        asked = draw(plan.distributions, plan.n_trials, plan.seed)
    unique = {_key(parameters): parameters for parameters in asked}
    if plan.n_trials is not None:
        # Those count that were drawn from what the parameters were before.
        n_open = max(0, plan.n_trials - len(complete))
        for key in [key for key in unique if key not in complete][n_open:]:
            del unique[key]
    return [*(complete[key] for key in complete if key not in unique), *unique.values()]


def _pending(
    wanted: Sequence[Parameters], entries: Sequence[Entry]
) -> list[tuple[Parameters, Entry | None]]:
    """The trials that are not complete, with what is known of each."""
    known = {_key(entry.parameters): entry for entry in entries}
    found = [(parameters, known.get(_key(parameters))) for parameters in wanted]
    return [
        (parameters, entry)
        for parameters, entry in found
        if entry is None or entry.state != TrialState.COMPLETE
    ]


def _key(parameters: Parameters) -> tuple[Any, ...]:
    """Tell parameters from others: 4 and 4.0 are the same."""
    return tuple(sorted(parameters.items()))


def _check(
    plan: Plan, wanted: Sequence[Parameters]
) -> tuple[list[tuple[dict[str, Any], dict[str, str]]], bool]:
    """Refuse, before anything runs, settings that a chain does not take.

    Returns:
        The settings of the chain of each trial with the keys of its stages, and whether all
        trials run on the CPU.
    """
    from detaux_pl.cli import chain, stage  # a sweep that is complete needs no PyTorch

    found, on_cpu = [], True
    files: dict[str, str | None] = {}
    until = [] if plan.until is None else ["--until", plan.until]
    with (
        tempfile.TemporaryDirectory() as folder,
        progress_bar("sweep · checking the trials", len(wanted)) as advance,
    ):
        path = Path(folder) / "given.yaml"
        for parameters in wanted:
            settings = plan.settings(parameters)
            path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
            unseeded = json.dumps({**settings, "seed": None}, default=str)
            try:
                parsed = chain.parse(
                    ["--config", str(path), "--run_dir", str(plan.room / "0"), *until]
                )
                if unseeded not in files:
                    files[unseeded] = chain.build_all(parsed).files
            except UserError as error:
                raise UserError(f"{in_words(parameters)}: {error}") from error
            keys = chain.stage_keys(replace(parsed, files=files[unseeded]))
            found.append((settings, keys))
            on_cpu = on_cpu and stage.on_cpu(parsed.config["disentangle"])
            advance(1)
    return found, on_cpu


def _enrol(
    plan: Plan,
    record: Record,
    parameters: Parameters,
    entry: Entry | None,
    settings: dict[str, Any],
    keys: dict[str, str],
) -> Trial:
    """Ask for a trial, unless it waits already or a killed sweep began it."""
    if entry is None:
        number = record.enqueue(parameters)
    else:
        number = entry.number
        if entry.state == TrialState.FAIL:
            record.enqueue(parameters, number)
    began = entry is not None and entry.state == TrialState.RUNNING
    attempt = entry.attempt if entry is not None and began else None
    return Trial(plan.room / str(number), in_words(parameters), settings, keys, attempt)


def _write(plan: Plan, wanted: Sequence[Parameters], record: Record) -> SweepTable:
    """Write the tables, as far as the trials have come."""
    known = {_key(entry.parameters): entry for entry in record.entries}
    outcomes = []
    for parameters in wanted:
        entry = known[_key(parameters)]
        folder, state = plan.room / str(entry.number), _STATES[entry.state]
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
    if not page.is_file() or not numbers.is_file() or numbers.read_text("utf-8") != content:
        # matplotlib takes longer to import than all else that a complete sweep needs.
        from detaux_pl.evaluation.sweep_page import render_sweep

        write_text(page, render_sweep(table, plan.folder.resolve().name, plan.command))
        write_text(numbers, content)
    put_out(to_rich(table), None)
    for line in remarks(table):
        print(line, file=sys.stderr)
    print(f"page: {page}", file=sys.stderr)
