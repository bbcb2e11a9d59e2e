"""Processes that train nets, one after the other, for a stage that needs many. Imports no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from detaux_pl.artifacts.errors import Diverged, UserError
from detaux_pl.artifacts.exit_codes import Stopped
from detaux_pl.artifacts.run_stage import rank_and_world
from detaux_pl.pipeline.process import Child, end, signals_to, start
from detaux_pl.settings.devices import on_cpu

Do = Callable[[Any], None]
"""Does a piece of work."""


class Workers:
    """Processes that each take one piece of work after the other.

    They live as long as the stage, so that each imports torch once, and while the stage is busy
    with something else.

    Args:
        n: Number of processes.
    """

    def __init__(self, n: int) -> None:
        self.children = [
            start(["_worker", str(k)], n, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for k in range(n)
        ]

    def __call__(self, work: Sequence[Any], tick: Callable[[], object]) -> None:
        """Have everything done.

        Args:
            work: What to do, as JSON can hold it.
            tick: Called several times a second meanwhile.

        Raises:
            Diverged: If a training did, whichever process it was in.
            Stopped: If a process failed, or this one was asked to end.
        """
        left, idle = deque(work), list(self.children)
        with signals_to(self.children) as received, DefaultSelector() as selector:
            for child in self.children:
                selector.register(child.stdout, EVENT_READ, child)  # type: ignore[arg-type]
            while left or len(idle) < len(self.children):
                while left and idle:
                    _tell(idle.pop(), left.popleft())
                for key, _ in selector.select(timeout=0.1):
                    said = key.fileobj.readline()  # type: ignore[union-attr]
                    if not said:
                        code = key.data.wait()
                        # A signal gives a negative code: either it was ours, or it crashed.
                        raise Stopped(128 + received[-1] if received else max(code, 1))
                    if diverged := json.loads(said):
                        raise Diverged(**diverged)
                    idle.append(key.data)
                tick()
        if received:
            raise Stopped(128 + received[-1])

    def close(self) -> None:
        """End the processes, whatever they do: a net that is not done yet is begun anew anyway."""
        end(self.children)


def _tell(child: Child, work: Any) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(work).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:  # its end is seen when its answer is read
        pass


@contextmanager
def net_workers(
    nets: Mapping[str, Any], n_jobs: int | None, n_nets: int
) -> Iterator[Workers | None]:
    """Start the processes that a stage's nets are trained in.

    Args:
        nets: Settings of the nets.
        n_jobs: How many; None for one per core, or per device of an accelerator.
        n_nets: How many nets there are to train at once, at most.

    Returns:
        None where this process is to train them itself: as one of several ranks, or as asked for.

    Raises:
        UserError: If there are less than one.
    """
    refuse_jobs(n_jobs)
    n = n_jobs
    if n is None and on_cpu(nets):
        n = os.cpu_count()
    elif n is None:
        import torch

        n = torch.accelerator.device_count()
    n = min(n or 1, n_nets)
    workers = Workers(n) if n > 1 and rank_and_world()[1] == 1 else None
    try:
        yield workers
    finally:
        if workers is not None:
            workers.close()


def refuse_jobs(n_jobs: int | None) -> None:
    """Refuse a number of processes that is none.

    Raises:
        UserError: If it is.
    """
    if n_jobs is not None and n_jobs < 1:
        raise UserError(
            f"jobs is {n_jobs}: give at least 1, or null for as many as the hardware suggests."
        )


def answer(do: Do) -> None:
    """Be one of `Workers`: do what comes, and say after each how it ended."""
    # What is printed meanwhile is no answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        said: dict[str, Any] = {}
        try:
            do(json.loads(line))
        except Diverged as error:  # the stage says so, once for all its processes
            said = {"where": error.where, "what": error.what, "since": error.since}
        print(json.dumps(said), file=answers, flush=True)
