"""`detaux`: which command runs, and what its exit code means. Imports no torch by itself."""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import NamedTuple

from detaux_pl.artifacts.errors import UserError, disk_error, path_error
from detaux_pl.artifacts.exit_codes import CRASH, INTERRUPTED, OK, UNREAD, USER_ERROR, stopped
from detaux_pl.pipeline.fork_server import allow, end_with_parent
from detaux_pl.pipeline.stage import STAGES

_CLI = "detaux_pl.cli"


class Command(NamedTuple):
    """A row of the help.

    Args:
        name: The first word.
        module: Its file, whose `run(args)` does it.
        help: What it does.
        takes: The words that follow, for the help.
    """

    name: str
    module: str
    help: str
    takes: str = ""


GROUPS = {
    "The whole chain": [
        Command("fit", f"{_CLI}.fit", ", ".join(stage.name for stage in STAGES)),
        Command(
            "slurm", f"{_CLI}.slurm", "the same as SLURM scripts: one job a stage, arms as an array"
        ),
    ],
    "The data, before anything is trained": [
        Command(
            "data", f"{_CLI}.data", "what must be mended; pictures of images and pairs",
            "{check,show}",
        ),
    ],
    "A finished run in use": [
        Command(
            "predict", f"{_CLI}.predict", "class, probability and group of any images",
            "RUN IMAGES ...",
        ),
        Command("errors", f"{_CLI}.errors", "where its networks err, on the test images", "RUN"),
        Command(
            "groups", f"{_CLI}.groups", "for whom they fail: each class in each discovered group",
            "RUN",
        ),
        Command(
            "export", f"{_CLI}.export", "its networks as ONNX, safetensors, torch.export; a card",
            "RUN FOLDER",
        ),
    ],
    "A stage by itself (on several machines, or with other settings)": [
        Command(
            stage.name, f"detaux_pl.pipeline.stages.{stage.name}", stage.help,
            f"{{{','.join(stage.subcommands)}}}" if stage.subcommands else "",
        )
        for stage in STAGES
    ],
    "Several runs": [
        Command(
            "ladder", f"{_CLI}.ladder",
            "what people would take on your data, at few labels too: which rung is worth it",
        ),
        Command("sweep", f"{_CLI}.sweep", "a grid or random search over any settings, its table"),
        Command(
            "compare", f"{_CLI}.compare", "one table and page of their arms: accuracy, tests, cost",
            "RUN_DIR ...",
        ),
        Command("probes", f"{_CLI}.probes", "one table of their probes, over seeds", "RUN_DIR ..."),
        Command(
            "metrics", f"{_CLI}.metrics", "one table of their disentanglement metrics, over seeds",
            "RUN_DIR ...",
        ),
    ],
}  # fmt: skip
"""The commands, as the help groups them."""

COMMANDS = {each.name: each for group in GROUPS.values() for each in group}

_HELP = """\
usage: detaux COMMAND [--config FILE] [--KEY VALUE ...]

From images labelled for one task to a better classifier: learn a representation split into
subspaces, judge them, discover an auxiliary task in one of them, train on both tasks, report.

{commands}
Examples:
  detaux data check --config configs/quickstart.yaml
  detaux fit --config configs/quickstart.yaml
  detaux fit --config configs/quickstart.yaml --run_dir runs/eight --seeds 8
  detaux fit --config configs/quickstart.yaml --redo cluster
  detaux fit --config configs/quickstart.yaml --print_config
  detaux disentangle fit --config runs/quickstart/disentangle/config.yaml
  detaux predict runs/quickstart photos --output predictions.csv
  detaux errors runs/quickstart --output errors
  detaux groups runs/quickstart --output groups.csv
  detaux export runs/quickstart bundles/quickstart
  detaux compare runs/* --output compare.html
  detaux probes runs/*/seed* --format latex --output probes.tex
  detaux ladder --config configs/folder.yaml --labels 5,20
  detaux slurm --config configs/quickstart.yaml --time multitask=1:00:00
  detaux sweep --config configs/sweeps/beta.yaml

  detaux COMMAND --help                   what a command takes
  detaux --version

Exit codes: 0 done, 1 a stage crashed, 2 something given must be mended (one line says what),
3 `data check` found something to mend or `predict` images that cannot be read, 4 no task worth
training on was found, 130 interrupted and 143 terminated (run the same command again to go on),
141 nobody reads the output to its end, as in `| head`.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0 done, 1 a stage crashed, 2 user error, 3 data to mend, 4 no task found,
        130 interrupted, 143 terminated.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return OK if args else USER_ERROR
    if args[0] == "--version":
        print(f"detaux {version('detaux_pl')}")
        return OK
    try:
        return _dispatch(args[0], args[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except MemoryError as error:
        print(
            f"error: the memory does not suffice ({error or 'no more of it'}): give fewer or "
            "smaller images, or smaller batches.",
            file=sys.stderr,
        )
        return USER_ERROR
    except KeyboardInterrupt:
        return stopped(INTERRUPTED)
    except Exception as error:
        if (line := disk_error(error)) is not None:
            print(f"error: {line}", file=sys.stderr)
            return CRASH
        if (line := path_error(error)) is not None:
            print(f"error: {line}", file=sys.stderr)
            return USER_ERROR
        raise


def entry_point() -> None:
    """Run the command of this process and exit with its code."""
    if os.environ.get("DETAUX_STAGE"):
        end_with_parent(os.getppid())
    allow(main)
    gc.disable()  # until all is imported: to look for garbage meanwhile takes a fifth of the time
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _output_closed():
            raise
        code = UNREAD
    sys.exit(code)


def _output_closed() -> bool:
    """Say whether nobody reads what is printed any more, and then print the rest to nobody."""
    waiting = select.poll()
    waiting.register(sys.stdout.fileno(), 0)  # asks for nothing, and is told of errors
    closed = any(event & select.POLLERR for _, event in waiting.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit fails, too
    return closed


def _help() -> str:
    lines = ""
    for title, group in GROUPS.items():
        rows = [f"  {f'{each.name} {each.takes}'.rstrip():<39} {each.help}\n" for each in group]
        lines += f"{title}:\n{''.join(rows)}\n"
    return _HELP.replace("{commands}\n", lines)


def _dispatch(command: str, args: list[str]) -> int:
    if command == "_batch":
        return _batch([list(words) for words in json.loads(args[0])])
    if command == "_worker":
        return int(_import("detaux_pl.pipeline.nets").work(args))
    if command == "_time":
        return int(_import("detaux_pl.pipeline.costs").time_request(args[0]))
    if command not in COMMANDS:
        raise UserError(f"unknown command {command!r}: choose one of {', '.join(COMMANDS)}.")
    return int(_import(COMMANDS[command].module).run(args))


def _import(name: str) -> ModuleType:
    """Import a module, and look for garbage from then on."""
    module = import_module(name)
    if not gc.isenabled():
        gc.freeze()  # what was imported stays, and is not looked through again
        gc.enable()
    return module


def _batch(commands: list[list[str]]) -> int:
    """Run several commands in this process, which spares each the imports of the first.

    A command that fails leaves others of its kind to run, as the arms of a chain do not need each
    other; what comes after them needs all. An interrupt ends all.
    """
    worst = OK
    failed: list[str] | None = None
    for words in commands:
        if failed is not None and words[:2] != failed:
            break
        try:
            code = main(words)
        except Exception:
            logging.getLogger(__name__).exception("%s failed", " ".join(words))
            code = CRASH
        if code not in (OK, CRASH, USER_ERROR):
            return code
        failed = words[:2] if code else failed
        worst = max(worst, code)
    return worst
