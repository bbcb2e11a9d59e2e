"""The processes of the stages: started, watched, and told of signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from detaux_pl.pipeline.fork_server import Forked, fork

Commands = Sequence[Sequence[str]]
"""Commands that one process runs one after the other."""

OF_AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
"""What an agent of W&B tells of its run, which the W&B runs of the stages must not take for
theirs."""

GRACE = 0.5
"""How long processes that have nothing to lose may take to end when they are asked to [s]."""


class Process(subprocess.Popen[bytes]):
    """A process with a group of its own, of which nothing outlives it for long.

    Where it was killed, those that it started, such as the readers of its images, look for it every
    few seconds only, and keep the run folder locked until then.
    """

    _ended = False

    def __init__(self, words: Sequence[str], **streams: Any) -> None:
        super().__init__(
            [sys.executable, "-m", "detaux_pl", *words],
            # Ctrl-C reaches the process that starts it alone, which passes it on once.
            start_new_session=True,
            **streams,
        )

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._swept(super().poll())

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code."""
        code = super().wait(timeout)
        self._swept(code)
        return code

    def _swept(self, code: int | None) -> int | None:
        if code is not None and code < 0 and not self._ended:
            self._ended = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return code


Child = Process | Forked
"""A process that this one started."""


def end(processes: Sequence[Child]) -> None:
    """End processes that have nothing to lose: by asking them, and soon by force."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    while any(each.poll() is None for each in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):  # what it was told last
                if pipe is not None:
                    pipe.close()


Runner = Callable[[Sequence[Commands], int | None, Callable[[], object]], int]
"""Runs several processes at once: gets the commands of each, the descriptor of the lock and what
to call now and then; returns the worst exit code."""


def run_processes(
    processes: Sequence[Commands], lock: int | None, tick: Callable[[], object]
) -> int:
    """Run commands in child processes, and pass the signals of this process on to them.

    Args:
        processes: The commands of each process.
        lock: Descriptor of the run folder's lock, which the children inherit.
        tick: Called several times a second while they run.

    Returns:
        The worst exit code of the children, or 128 + the number of the signal received.
    """
    children = [
        start(
            list(commands[0]) if len(commands) == 1 else ["_batch", json.dumps(commands)],
            len(processes),
            pass_fds=() if lock is None else (lock,),
        )
        for commands in processes
    ]
    with signals_to(children) as received:
        while any(child.poll() is None for child in children):
            tick()
            time.sleep(0.1)
    if received:
        return 128 + received[-1]
    # A child that a signal ended has a negative code: it crashed.
    return max(code if (code := child.wait()) >= 0 else 1 for child in children)


@contextmanager
def signals_to(children: Sequence[Child]) -> Iterator[list[int]]:
    """Pass the signals that ask this process to end on to others; gives those that came."""
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    before = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start(words: Sequence[str], n_processes: int, **streams: Any) -> Child:
    """Start a command in a process of its own, one of several that share the cores.

    Args:
        words: The command and its arguments.
        n_processes: How many there are. Where there are several, each gets its share of the cores
            and shows no progress bar of its own.
        streams: What of this process it gets, see `subprocess.Popen`.
    """
    environment = {name: value for name, value in os.environ.items() if name not in OF_AGENT}
    environment["DETAUX_STAGE"] = "alone" if n_processes == 1 else "one of several"
    if n_processes > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // n_processes))
    return fork(words, environment, **streams) or Process(words, env=environment, **streams)
