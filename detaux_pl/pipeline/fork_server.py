"""A process that has imported everything and computed nothing: it forks itself for every stage.

A process that is started anew imports for seconds, and keeps a gigabyte of its own for it. The
planner of a chain has imported all that a stage needs anyway, so its first fork becomes the server
(`fork_server`), and every process of a stage a fork of the server (`Forked`), whoever asks for it:
a stage may run threads by then, which a fork of itself would lack. Imports no torch by itself.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from select import select
from socket import (
    AF_UNIX,
    MSG_WAITALL,
    SOCK_DGRAM,
    SOCK_STREAM,
    recv_fds,
    send_fds,
    socket,
    socketpair,
)
from typing import IO, Any, NamedTuple, NoReturn

from detaux_pl.artifacts.exit_codes import CRASH, OK

Command = Callable[[list[str]], int]
"""Runs the words of a command and returns its exit code."""

_PRELOADED = ("detaux_pl.pipeline.stages.report", "detaux_pl.pipeline.nets", "hdbscan")
"""What the stages import and a planner does not."""
_POLL = 1.0
"""How often the server looks whether its planner is there; that a fork ended it is told [s]."""
_NUMBER = struct.Struct("q")

_command: Command | None = None
"""What a fork runs; None where this process is not the command line's own."""
_server: socket | None = None
"""Where this process asks for forks; None where it starts its processes anew."""


class _Request(NamedTuple):
    """What a fork is to do: words of a command, its environment and its folder."""

    words: list[str]
    environment: dict[str, str]
    folder: str


def allow(command: Command) -> None:
    """Say that this process is the command line's own, so that a fork may be one, too."""
    global _command
    _command = command


@contextmanager
def fork_server() -> Iterator[None]:
    """Have the processes that are started within it forked, where that is safe.

    It is not beside threads, with an accelerator, or elsewhere than on Linux: there, as in a
    process that only calls us, they are started anew.
    """
    global _server
    if not _is_safe():
        yield
        return
    asks, asked = socketpair(AF_UNIX, SOCK_DGRAM)
    sys.stdout.flush()
    sys.stderr.flush()
    planner = os.getpid()
    pid = os.fork()
    if not pid:
        _server = asks  # which the forks inherit
        try:
            _serve(asked, planner)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(CRASH)
    asked.close()
    _server = asks
    try:
        yield
    finally:
        _server = None
        with suppress(OSError):  # it was killed
            asks.send(b"end")
        asks.close()
        os.waitpid(pid, 0)


def _is_safe() -> bool:
    if _command is None or sys.platform != "linux" or threading.active_count() > 1:
        return False
    import torch

    return not torch.accelerator.is_available()


def _serve(asked: socket, planner: int) -> None:
    """Fork for every request until the planner ends; no fork returns."""
    os.setsid()  # Ctrl-C is the planner's
    _be_called("server")
    for name in _PRELOADED:
        import_module(name)
    gc.freeze()  # what is there stays: to mark it in every fork would copy its pages
    woken, wakes = socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    forks: dict[int, socket] = {}
    told: set[int] = set()
    while os.getppid() == planner:
        ready, _, _ = select([asked, woken, *forks.values()], [], [], _POLL)
        if woken in ready:
            woken.recv(64)
        for pid, client in list(forks.items()):
            if pid not in told and (code := _exit_code(pid)) is not None:
                told.add(pid)
                _tell(client, code)
            # Until its client is done with it, it is not forgotten: its number stays its own.
            if client in ready and pid in told:
                os.waitpid(pid, 0)
                forks.pop(pid).close()
                told.discard(pid)
        if asked in ready:
            _, descriptors, _, _ = recv_fds(asked, 3, 16)
            if not descriptors:
                break
            client = socket(fileno=descriptors[0])
            request = _read(client)
            if request is not None:
                server = os.getpid()
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in (asked, woken, wakes, *forks.values()):
                        other.close()
                    _become(request, descriptors, client, server)
                forks[pid] = client
                _tell(client, pid)
            else:
                client.close()
            for descriptor in descriptors[1:]:
                os.close(descriptor)
    for pid in forks:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become(request: _Request, descriptors: Sequence[int], client: socket, server: int) -> NoReturn:
    """Be a process of its own that runs a command, and end with its exit code."""
    code = CRASH
    try:
        os.setsid()
        _be_called(request.words[0])
        for number, descriptor in enumerate(descriptors[1:4]):
            os.dup2(descriptor, number)
            os.close(descriptor)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=stream.isatty())  # type: ignore[union-attr]
        os.chdir(request.folder)
        before, wanted = (of.get("OMP_NUM_THREADS") for of in (os.environ, request.environment))
        os.environ.clear()
        os.environ.update(request.environment)
        if wanted is not None and wanted != before:
            _limit_threads(int(wanted))  # the libraries are loaded, and read it no more
        sys.argv[1:] = request.words
        end_with_parent(server, client)
        assert _command is not None
        code = _command(request.words)
    except SystemExit as end:  # after help, 0
        code = end.code if isinstance(end.code, int) else CRASH if end.code else OK
    except BaseException:
        sys.excepthook(*sys.exc_info())
    # What ends with the interpreter, but not the interpreter: to take a gigabyte of modules apart
    # takes half a second, and nothing of what the planner had begun is to be ended here.
    threading._shutdown()  # type: ignore[attr-defined]  # as `multiprocessing` ends its forks
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _be_called(name: str) -> None:
    """Be `detaux NAME` in lists of processes, which would show the words of the planner."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"detaux {name}")


def _limit_threads(n: int) -> None:
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threadpool_limits(n)
    torch.set_num_threads(n)


def end_with_parent(parent: int, client: socket | None = None) -> None:
    """End this process soon after the one that started it, however that ended.

    Without it a stage whose planner was killed would go on writing to the run folder.

    Args:
        parent: Number of the process that this one is the child of.
        client: Connection to that which asked for this one, where it is another.
    """

    def watch() -> None:
        watched = [] if client is None else [client]
        while os.getppid() == parent and not select(watched, [], [], 0.1)[0]:
            pass
        if os.getpgrp() == os.getpid():  # with what it started, such as readers of images
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


class Forked:
    """A process that the server forked, with what of `subprocess.Popen` is needed.

    Raises:
        OSError: If there is no server any more.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        stdin: int | None = None,
        stdout: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        assert _server is not None
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self._server, theirs = socketpair(AF_UNIX, SOCK_STREAM)
        streams, ours = [0, 1, 2], []
        if stdin == subprocess.PIPE:
            streams[0], end = os.pipe()
            self.stdin = os.fdopen(end, "wb")
            ours.append(streams[0])
        if stdout == subprocess.PIPE:
            end, streams[1] = os.pipe()
            self.stdout = os.fdopen(end, "rb")
            ours.append(streams[1])
        try:
            send_fds(_server, [b"."], [theirs.fileno(), *streams, *pass_fds])
            theirs.close()
            request = _Request([*words], {**environment}, os.getcwd())
            said = json.dumps(request).encode()
            self._server.sendall(_NUMBER.pack(len(said)) + said)
            self.pid = self._next()
        finally:
            theirs.close()
            for end in ours:
                os.close(end)

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        if self.returncode is None and select([self._server], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """Wait for the exit code."""
        if self.returncode is None:
            try:
                self.returncode = self._next()
            except OSError:  # the server was killed, and it with it
                self.returncode = -signal.SIGKILL
            else:
                if self.returncode < 0:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(self.pid, signal.SIGKILL)
            self._server.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it by force."""
        self.send_signal(signal.SIGKILL)

    def _next(self) -> int:
        said = self._server.recv(_NUMBER.size, MSG_WAITALL)
        if len(said) < _NUMBER.size:
            raise ConnectionError("the process that forks the stages has ended")
        return int(_NUMBER.unpack(said)[0])


def fork(words: Sequence[str], environment: Mapping[str, str], **streams: Any) -> Forked | None:
    """Ask the server for a process; None where there is none, or it was killed."""
    if _server is not None:
        with suppress(OSError):
            return Forked(words, environment, **streams)
    return None


def _read(client: socket) -> _Request | None:
    """Read what a fork is to do; None where its client has ended meanwhile."""
    with suppress(OSError):
        size = client.recv(_NUMBER.size, MSG_WAITALL)
        if len(size) == _NUMBER.size:
            (n,) = _NUMBER.unpack(size)
            said = client.recv(n, MSG_WAITALL)
            if len(said) == n:
                return _Request(*json.loads(said))
    return None


def _tell(client: socket, number: int) -> None:
    with suppress(OSError):  # it has ended meanwhile
        client.sendall(_NUMBER.pack(number))


def _exit_code(pid: int) -> int | None:
    """Look whether a child has ended, which stays a zombie; as `Popen.returncode` has it."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
