"""What a sweep is to do: its trials, and whether they go with those that are there."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.artifacts.stage import first_difference
from detaux_pl.artifacts.yaml_text import dump_yaml
from detaux_pl.pipeline.parameters import (
    Parameter,
    read_chain,
    read_parameters,
    vary,
)
from detaux_pl.pipeline.study import Entry, Parameters, Record, draw, shown
from detaux_pl.pipeline.trials import Trial, Turns
from detaux_pl.report.sweep_table import State, in_words
from detaux_pl.settings.devices import on_cpu

if TYPE_CHECKING:
    from detaux_pl.pipeline.forecast import Forecast
    from detaux_pl.pipeline.job import Chain

STATES: dict[TrialState, State] = {
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
        storage: Where several processes keep their record; None for a file of this one's.
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
    storage: str | None = None

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
        command=shown(shlex.join(["detaux", "sweep", *args])),
        storage=config.storage,
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


def refuse_other_plan(plan: Plan, before: dict[str, Any] | None) -> dict[str, Any]:
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
    change = first_difference(_numbers(before), _numbers(said))
    if change is not None:
        raise UserError(
            f"{plan.folder} was made with other settings: {change}. A sweep may get more choices "
            "of its parameters and more trials; give another --sweep_dir for anything else."
        )
    return said


def _numbers(value: Any) -> Any:
    """Read numbers such as 1e-3, which YAML took for words once."""
    if isinstance(value, dict):
        return {name: _numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+e[-+]?\d+", value, re.IGNORECASE):
        return float(value)
    return value


def wanted_trials(plan: Plan, entries: Sequence[Entry]) -> list[Parameters]:
    """Parameters of every trial, those of complete ones that the plan has no more among them."""
    complete = {
        key_of(e.parameters): e.parameters for e in entries if e.state == TrialState.COMPLETE
    }
    if plan.n_trials is None:
        names = [each.name for each in plan.parameters]
        choices = itertools.product(*(each.choices for each in plan.parameters))
        asked = [dict(zip(names, values, strict=True)) for values in choices]
    else:
        asked = draw(plan.distributions, plan.n_trials, plan.seed)
    unique = {key_of(parameters): parameters for parameters in asked}
    if plan.n_trials is not None:
        # Those count that were drawn from what the parameters were before.
        n_open = max(0, plan.n_trials - len(complete))
        for key in [key for key in unique if key not in complete][n_open:]:
            del unique[key]
    return [*(complete[key] for key in complete if key not in unique), *unique.values()]


def pending_trials(
    wanted: Sequence[Parameters], entries: Sequence[Entry]
) -> list[tuple[Parameters, Entry | None]]:
    """The trials that are not complete, with what is known of each."""
    known = {key_of(entry.parameters): entry for entry in entries}
    found = [(parameters, known.get(key_of(parameters))) for parameters in wanted]
    return [
        (parameters, entry)
        for parameters, entry in found
        if entry is None or entry.state != TrialState.COMPLETE
    ]


def key_of(parameters: Parameters) -> tuple[Any, ...]:
    """Tell parameters from others: 4 and 4.0 are the same."""
    return tuple(sorted(parameters.items()))


def prepare(
    plan: Plan, wanted: Sequence[Parameters]
) -> tuple[list[tuple[dict[str, Any], dict[str, str]]], list[Chain], bool]:
    """Refuse, before anything runs, settings that a chain does not take.

    Returns:
        The settings of the chain of each trial with the keys of its stages, these chains, in a
        folder that is none's, and whether all trials run on the CPU.
    """
    # A sweep that is complete needs no PyTorch.
    from detaux_pl.pipeline.chain import parse
    from detaux_pl.pipeline.checks import build_all
    from detaux_pl.pipeline.plan import stage_keys

    found, chains, all_on_cpu = [], list["Chain"](), True
    files: dict[str, str | None] = {}
    until = [] if plan.until is None else ["--until", plan.until]
    with (
        tempfile.TemporaryDirectory() as folder,
        progress_bar("sweep · checking the trials", len(wanted)) as advance,
    ):
        path = Path(folder) / "given.yaml"
        for parameters in wanted:
            settings = plan.settings(parameters)
            path.write_text(dump_yaml(settings), encoding="utf-8")
            unseeded = json.dumps({**settings, "seed": None}, default=str)
            try:
                parsed = parse(["--config", str(path), "--run_dir", str(plan.room / "0"), *until])
                if unseeded not in files:
                    files[unseeded] = build_all(parsed).files
            except UserError as error:
                raise UserError(f"{in_words(parameters)}: {error}") from error
            keys = stage_keys(replace(parsed, files=files[unseeded]))
            found.append((settings, keys))
            chains.append(parsed)
            all_on_cpu = all_on_cpu and on_cpu(parsed.config["disentangle"])
            advance(1)
    return found, chains, all_on_cpu


def enrol(
    plan: Plan,
    record: Record,
    parameters: Parameters,
    entry: Entry | None,
    settings: dict[str, Any],
    keys: dict[str, str],
    turns: Turns | None = None,
) -> Trial:
    """Ask for a trial, unless it waits already, a killed sweep began it or another one runs it."""
    if entry is None:
        number = record.enqueue(parameters)
    else:
        number = entry.number
        if entry.state == TrialState.FAIL:
            record.enqueue(parameters, number)
    began = entry is not None and entry.state == TrialState.RUNNING
    if began and turns is not None:
        began = turns.claim(number) is not None
    attempt = entry.attempt if entry is not None and began else None
    return Trial(plan.room / str(number), in_words(parameters), settings, keys, attempt)


def foresee_trials(
    trials: Sequence[Trial], chains: Sequence[Chain], made: Collection[str], n_at_once: int
) -> tuple[Forecast, str]:
    """Tell how long the trials of a sweep will take.

    Args:
        trials: The trials that are to run.
        chains: Their chains.
        made: Keys of the stages that are there.
        n_at_once: How many run at once.
    """
    from detaux_pl.pipeline.forecast import foresee_all

    named = {}
    for trial, chain in zip(trials, chains, strict=True):
        own = {"run_dir": str(trial.folder)} | ({"jobs": 1} if n_at_once > 1 else {})
        named[str(trial.number)] = replace(chain, config={**chain.config, **own})
    keys = {str(trial.number): trial.keys for trial in trials}
    return foresee_all(f"{len(trials)} trials", named, n_at_once, keys, made)
