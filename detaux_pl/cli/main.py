"""`detaux`: which command runs, and what its exit code means. Imports no torch by itself."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version

from detaux_pl.artifacts.errors import UserError

OK, CRASH, USER_ERROR, MEND, NOTHING_FOUND, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143

HELP = """\
usage: detaux COMMAND [--config FILE] [--KEY VALUE ...]

From images labelled for one task to a better classifier: learn a representation split into
subspaces, judge them, discover an auxiliary task in one of them, train on both tasks, report.

The whole chain:
  fit                                     disentangle, evaluate, cluster, train all arms, report

The data, before anything is trained:
  data {check,show}                       what must be mended; pictures of images and pairs

A stage by itself (on several machines, or with other settings):
  disentangle {fit,validate,test,predict} learn the subspaces; predict writes the codes
  evaluate                                codes -> linear probes and disentanglement metrics
  cluster                                 codes -> auxiliary labels
  refine                                  auxiliary labels -> those that nets see in the images
  multitask {fit,validate,test}           train one arm with one seed
  report                                  tables and pictures of a run folder

Several runs:
  sweep                                   a grid or random search over any settings, its table
  compare RUN_DIR ...                     one table and page of their arms: accuracy, tests, cost
  probes RUN_DIR ...                      one table of their probes, over seeds
  metrics RUN_DIR ...                     one table of their disentanglement metrics, over seeds

Examples:
  detaux data check --config configs/quickstart.yaml
  detaux fit --config configs/quickstart.yaml
  detaux fit --config configs/quickstart.yaml --run_dir runs/eight --seeds 8
  detaux fit --config configs/quickstart.yaml --redo cluster
  detaux fit --config configs/quickstart.yaml --print_config
  detaux disentangle fit --config runs/quickstart/disentangle/config.yaml
  detaux compare runs/* --output compare.html
  detaux probes runs/*/seed* --format latex --output probes.tex
  detaux sweep --config configs/sweeps/beta.yaml

  detaux COMMAND --help                   what a command takes
  detaux --version

Exit codes: 0 done, 1 a stage crashed, 2 something given must be mended (one line says what),
3 `detaux data check` found something to mend, 4 no task worth training on was found, 130
interrupted and 143 terminated (run the same command again to go on).
"""

COMMANDS = (
    "fit", "data", "disentangle", "evaluate", "cluster", "refine", "multitask", "report", "compare",
    "probes", "metrics", "sweep",
)  # fmt: skip


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
        print(HELP)
        return OK if args else USER_ERROR
    if args[0] == "--version":
        print(f"detaux {version('detaux_pl')}")
        return OK
    try:
        return _dispatch(args[0], args[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return stopped(INTERRUPTED)


def stopped(code: int) -> int:
    """Say how to go on after an interrupt or a request to end, and return the exit code."""
    if "DETAUX_STAGE" not in os.environ:  # a stage's planner says it
        print("stopped: run the same command again, without --redo, to go on", file=sys.stderr)
    return code


def entry_point() -> None:
    """Run the command of this process and exit with its code."""
    if os.environ.get("DETAUX_STAGE"):
        _end_with_parent()
    sys.exit(main())


def _dispatch(command: str, args: list[str]) -> int:
    if command == "_batch":
        return _batch([list(words) for words in json.loads(args[0])])
    if command == "_worker":
        from detaux_pl.cli import nets

        return nets.work(args)
    if command not in COMMANDS:
        raise UserError(f"unknown command {command!r}: choose one of {', '.join(COMMANDS)}.")
    if command == "fit":
        from detaux_pl.cli import chain

        return chain.fit(args)
    if command == "data":
        from detaux_pl.cli import data

        return data.run(args)
    if command == "evaluate":
        from detaux_pl.cli import evaluate

        return evaluate.run(args)
    if command == "cluster":
        from detaux_pl.cli import cluster

        return cluster.run(args)
    if command == "refine":
        from detaux_pl.cli import refine

        return refine.run(args)
    if command == "report":
        from detaux_pl.cli import report

        return report.run(args)
    if command == "compare":
        from detaux_pl.cli import compare

        return compare.run(args)
    if command == "probes":
        from detaux_pl.cli import probes

        return probes.run(args)
    if command == "metrics":
        from detaux_pl.cli import metrics

        return metrics.run(args)
    if command == "sweep":
        from detaux_pl.cli import sweep

        return sweep.run(args)
    from detaux_pl.cli import trainable

    return trainable.run(command, args)


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


def _end_with_parent() -> None:
    """End this process soon after the one that started it, however that ended.

    Without it a stage whose planner was killed would go on writing to the run folder.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
