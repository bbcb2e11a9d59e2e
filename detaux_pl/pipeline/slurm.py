"""SLURM scripts of a chain: one job a stage, chained by `afterok`, the arms as an array."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.yaml_text import dump_yaml
from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.pipeline.plan import Plan
from detaux_pl.pipeline.stage import STAGES
from detaux_pl.settings.choices import closest
from detaux_pl.settings.devices import n_devices

_MARK = "# Written by `detaux slurm`: it writes this folder anew.\n"
_TRAINED = ("disentangle", "multitask")
_MARGIN, _LEAST, _UNKNOWN = 2.0, 600, 7200
"""What the expected time is multiplied by, the least that is asked for, and what is asked for where
nothing is expected [s]."""
_FORMS = {
    "cpus": (r"[1-9]\d*", "a number of cores, at least 1"),
    "gpus": (r"\d+", "a number of GPUs of each machine, 0 for none"),
    "nodes": (r"[1-9]\d*", "a number of machines, at least 1"),
    "mem": (r"[1-9]\d*[KMGT]?", "what SLURM takes, such as 8G"),
    "time": (r"(?=.*[1-9])(\d+-)?\d+(:\d\d){0,2}", "minutes or [days-]hours:minutes:seconds"),
    "sbatch": (r"--?[^\n]+", "an option of sbatch, such as --sbatch=--partition=long"),
}
"""How each resource is written."""


@dataclass(frozen=True)
class Resources:
    """What a stage asks for.

    Args:
        cpus: Cores of each machine.
        gpus: GPUs of each machine.
        nodes: Machines.
        mem: Memory of each machine, as SLURM has it.
        time: Longest time, as SLURM has it.
        sbatch: Further options of sbatch.
    """

    cpus: int = 4
    gpus: int = 0
    nodes: int = 1
    mem: str = "8G"
    time: str = ""
    sbatch: tuple[str, ...] = ()


def read_resources(
    given: Mapping[str, Sequence[str]], plan: Plan, costs: Mapping[str, Mapping[str, float]]
) -> dict[str, Resources]:
    """Read what each stage is to have.

    Args:
        given: By resource, words such as `8G`, for all stages, and `multitask=16G`, for one.
        plan: The jobs of the stages.
        costs: What they are expected to take [s].

    Raises:
        UserError: If there is no such stage, or something is no such resource.
    """
    found = {name: Resources() for name, jobs in plan.items() if jobs}
    for stage in _TRAINED:
        trainer = plan[stage][0].config["trainer"]
        if trainer["accelerator"] != "cpu":
            n = n_devices(trainer)
            known = trainer["accelerator"] != "auto" or n > 1
            found[stage] = replace(found[stage], gpus=n if known else 0)
    said = [(name, word, *_split(word)) for name, words in given.items() for word in words]
    for name, word, stage, value in said:
        _refuse(name, word, stage, value, found)
    # What is said of one stage counts for it.
    for name, _, stage, value in sorted(said, key=lambda each: bool(each[2])):
        for each in [stage] if stage else [*found]:
            found[each] = _with(found[each], name, value)
    return {
        name: own if own.time else replace(own, time=_time(costs.get(name, {}), name))
        for name, own in found.items()
    }


def _split(word: str) -> tuple[str, str]:
    """Take the stage from `multitask=8G`, or none from `8G` and `--partition=long`."""
    stage, equals, value = word.partition("=")
    return (stage, value) if equals and not stage.startswith("-") else ("", word)


def _refuse(name: str, word: str, stage: str, value: str, known: Mapping[str, Resources]) -> None:
    if stage and stage not in known:
        raise UserError(
            f"--{name} is {word!r}, of no stage of this chain: {closest(stage, [*known])}"
        )
    pattern, form = _FORMS[name]
    if not re.fullmatch(pattern, value):
        raise UserError(f"--{name} is {word!r}: give {form}.")
    if name == "nodes" and int(value) > 1 and stage not in _TRAINED:
        raise UserError(
            f"--nodes is {word!r}: several machines train one network in {' and '.join(_TRAINED)} "
            "alone, such as --nodes disentangle=2."
        )


def _with(own: Resources, name: str, value: str) -> Resources:
    read: Any = value
    if name == "sbatch":
        read = (*own.sbatch, value)
    elif name in ("cpus", "gpus", "nodes"):
        read = int(value)
    return replace(own, **{name: read})


def _time(jobs: Mapping[str, float], stage: str) -> str:
    """Time to ask for: of an array, that of the longest of its tasks."""
    expected = max(jobs.values(), default=0.0) if stage == "multitask" else sum(jobs.values())
    seconds = _MARGIN * expected + _LEAST if expected else _UNKNOWN
    minutes = 10 * math.ceil(seconds / 600)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def refuse_folder(folder: Path, run_dir: Path) -> None:
    """Refuse a folder that holds something else than such scripts.

    Raises:
        UserError: If it does.
    """
    if folder.resolve() == run_dir.resolve():
        raise UserError(f"--output is {folder}, which is the run folder: give another one.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output is {folder}, which is a file: give a folder.")
    ours = folder / "submit.sh"
    if (
        folder.is_dir()
        and any(folder.iterdir())
        and not (ours.is_file() and _MARK in ours.read_text(encoding="utf-8", errors="replace"))
    ):
        raise UserError(
            f"--output is {folder}, which holds something else: give an empty or a new folder."
        )


def write_scripts(
    chain: Chain, plan: Plan, resources: Mapping[str, Resources], folder: Path
) -> None:
    """Write the scripts, and the configs that they run the stages with.

    Args:
        chain: The chain.
        plan: Its jobs.
        resources: What each stage is to have.
        folder: Where to, see `refuse_folder`.
    """
    folder = folder.absolute()
    for row in STAGES:
        (folder / f"{row.name}.sh").unlink(missing_ok=True)
    shutil.rmtree(folder / "configs", ignore_errors=True)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    submit = ["#!/usr/bin/env bash", _MARK.rstrip("\n"), "set -euo pipefail"]
    before = ""
    for stage, jobs in plan.items():
        if not jobs:
            continue
        own = resources[stage]
        configs = []
        for job in jobs:
            more = {"jobs": own.cpus} if "nets" in job.config else {}
            path = folder / "configs" / f"{job.name}.yaml"
            write_text(path, dump_yaml({**job.config, **more}))
            configs.append(path)
        script = folder / f"{stage}.sh"
        write_text(script, "\n".join(_script(chain, stage, jobs, configs, own, folder)) + "\n")
        after = f' --dependency=afterok:"${before}" --kill-on-invalid-dep=yes' if before else ""
        submit.append(f"{stage}=$(sbatch --parsable{after} {shlex.quote(str(script))})")
        submit.append(f"{stage}=${{{stage}%%;*}}  # without the name of a cluster")
        submit.append(f'echo "{stage}: job ${stage}"')
        before = stage
    write_text(folder / "submit.sh", "\n".join(submit) + "\n")
    for path in folder.glob("*.sh"):
        path.chmod(0o755)


def _script(
    chain: Chain,
    stage: str,
    jobs: Sequence[Job],
    configs: Sequence[Path],
    own: Resources,
    folder: Path,
) -> Iterator[str]:
    array = stage == "multitask"
    name = f"{chain.run_dir.resolve().name}-{stage}"
    log = folder / "logs" / f"{stage}-{'%A_%a' if array else '%j'}.log"
    options = [
        f"--job-name={name}", f"--output={log}", "--open-mode=append", "--requeue",
        f"--nodes={own.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={own.cpus}",
        f"--mem={own.mem}", f"--time={own.time}",
    ]  # fmt: skip
    if own.gpus:
        options.append(f"--gpus-per-node={own.gpus}")
    if array:
        most = "" if chain.config["jobs"] is None else f"%{chain.config['jobs']}"
        options.append(f"--array=0-{len(jobs) - 1}{most}")
    yield "#!/usr/bin/env bash"
    yield from (f"#SBATCH {shlex.quote(option)}" for option in options)
    yield from (f"#SBATCH {option}" for option in own.sbatch)
    yield "set -euo pipefail"
    yield f"cd -- {shlex.quote(os.getcwd())}"
    yield f"export OMP_NUM_THREADS={own.cpus} LOKY_MAX_CPU_COUNT={own.cpus}"
    python, several = shlex.quote(sys.executable), own.nodes * max(own.gpus, 1) > 1
    more = ""
    if stage in _TRAINED and several:
        # c10d finds the first machine; ports of jobs on one machine differ.
        yield 'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
        yield "detaux() {"
        yield f"  srun {python} -m torch.distributed.run --nnodes={own.nodes} \\"
        yield f'    --nproc-per-node={max(own.gpus, 1)} --rdzv-id="$SLURM_JOB_ID" \\'
        yield '    --rdzv-backend=c10d --rdzv-endpoint="$head:$((20000 + SLURM_JOB_ID % 10000))" \\'
        yield '    -m detaux_pl "$@"'
        yield "}"
        more = f" --trainer.num_nodes {own.nodes} --trainer.devices {max(own.gpus, 1)}"
        more += " --trainer.strategy ddp"
    else:
        yield f'detaux() {{ {python} -m detaux_pl "$@"; }}'
    if array:
        yield "configs=("
        yield from (f"  {shlex.quote(str(path))}" for path in configs)
        yield ")"
        yield f'detaux multitask fit --config "${{configs[SLURM_ARRAY_TASK_ID]}}"{more}'
        return
    for job, path in zip(jobs, configs, strict=True):
        yield f"detaux {' '.join(job.command)} --config {shlex.quote(str(path))}{more}"
