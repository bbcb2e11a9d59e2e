"""Processes of their own in a test, which a test may kill.

They are forked from a server that has imported everything and computed nothing: a fork of the test
itself would now and then wait for threads or locks that it does not have, and a process that is
started anew imports for seconds before it works for a moment.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    "detaux_pl.training.stage_job", "detaux_pl.inference.export", "detaux_pl.pipeline.chain",
    "detaux_pl.disentangle.pretrained_features", "detaux_pl.cluster.erased",
])  # fmt: skip


def start_child(
    work: Callable[..., object],
    *args: Any,
    environment: Mapping[str, str] | None = None,
    timeout: float = 240,
) -> ForkServerProcess:
    """Call a function of a module in a process of its own, in the same folder.

    Args:
        work: The function.
        *args: Its arguments.
        environment: Variables beside those of this process.
        timeout: Time after which the process says where it stands, and ends [s].

    Returns:
        The process: `exitcode` is 1 after an error, which is printed.
    """
    told = {**os.environ, **(environment or {})}
    child = CONTEXT.Process(target=_work, args=(work, args, os.getcwd(), told, timeout))
    child.start()
    return child


def run_child(work: Callable[..., object], *args: Any) -> int:
    """Do the same, and wait for its end; return its exit code, or less than 0 the signal."""
    child = start_child(work, *args)
    child.join()
    assert child.exitcode is not None  # ended
    return child.exitcode


def _work(
    work: Callable[..., object],
    args: tuple[Any, ...],
    folder: str,
    environment: dict[str, str],
    timeout: float,
) -> None:
    faulthandler.dump_traceback_later(timeout, exit=True)
    os.chdir(folder)
    os.environ.update(environment)
    try:
        code = work(*args)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the interpreter's end, which waits for threads of libraries.
    os._exit(code if isinstance(code, int) else 0)
