"""A sweep as a file for W&B, whose agents run the trials wherever they are started."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.yaml_text import dump_yaml
from detaux_pl.pipeline.given import STAGE_KEYS
from detaux_pl.pipeline.parameters import Parameter, vary

if TYPE_CHECKING:
    from detaux_pl.pipeline.sweep_plan import Plan


def write_wandb_sweep(path: Path, plan: Plan) -> None:
    """Write a sweep as W&B takes it; its agents are started in the folder of this process.

    Args:
        path: The file.
        plan: The sweep; its chain is written to its folder.

    Raises:
        UserError: If a named variant changes several settings, which W&B cannot change as one.
    """
    parameters = dict(_parameter(each) for each in plan.parameters)
    chain = plan.folder / "chain.yaml"
    settings = vary(plan.chain, {})
    for each in plan.parameters:
        if each.variants is not None:
            # Of a class that gives way to another, the command line would keep what both take.
            _remove(settings, *each.keys)
    write_text(chain, dump_yaml(settings))
    # The shell knows the run of the agent, and gives each a folder of its own.
    script = f'exec detaux fit "$@" --run_dir {shlex.quote(str(plan.folder))}/"$WANDB_RUN_ID"'
    until = [] if plan.until is None else ["--until", plan.until]
    content: dict[str, Any] = {
        "name": plan.folder.name,
        "method": plan.sampler,
        **({} if plan.n_trials is None else {"run_cap": plan.n_trials}),
        "parameters": parameters,
        "command": ["sh", "-c", script, "detaux", "--config", str(chain), *until, "${args}"],
    }
    header = (
        "# Begin it with `wandb sweep` and this file, then start agents in the folder in which "
        "this\n# file was written: `wandb agent SWEEP_ID`.\n"
    )
    write_text(path, header + dump_yaml(content))


def _parameter(each: Parameter) -> tuple[str, dict[str, Any]]:
    """Name of the option that an agent gives, and its values."""
    if each.variants is not None:
        (name,) = each.keys if len(each.keys) == 1 else (None,)
        if name is None or (name in STAGE_KEYS and len(each.files) < len(each.variants)):
            raise UserError(
                f"W&B cannot express the parameter {each.name}, whose variants set "
                f"{', '.join(sorted(each.keys))}: let all of them set one dotted setting, or a "
                "whole stage by a file."
            )
        files = [os.path.relpath(file) for file in each.files.values()]
        return name, {"values": files or [_as_word(v[name]) for v in each.variants.values()]}
    if each.choices:
        return each.name, {"values": [_as_word(choice) for choice in each.choices]}
    whole = isinstance(each.low, int) and isinstance(each.high, int)
    if each.log:
        kind = "q_log_uniform_values" if whole else "log_uniform_values"
    else:
        kind = "int_uniform" if whole else "uniform"
    return each.name, {"distribution": kind, "min": each.low, "max": each.high}


def _remove(settings: dict[str, Any], key: str) -> None:
    *path, last = key.split(".")
    for name in path:
        below = settings.get(name)
        if not isinstance(below, dict):
            return
        settings = below
    settings.pop(last, None)


def _as_word(value: Any) -> Any:
    """Write what the command line would not understand as W&B writes it."""
    return value if isinstance(value, str | int | float) else json.dumps(value)
