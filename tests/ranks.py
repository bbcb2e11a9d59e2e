"""Several ranks in a test."""

import atexit
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed

from detaux_pl.cli.main import main


class Spawned(DDPStrategy):
    """Ranks in processes of their own, which end their group before their interpreter ends.

    Lightning leaves that to the interpreter with gloo, whose threads then abort the process now
    and then, long after all is done.

    The processes are forked where there is no GPU: a spawned one imports for seconds before it
    trains for a moment.
    """

    def __init__(self) -> None:
        super().__init__(start_method="spawn" if torch.cuda.is_available() else "fork")

    def setup_distributed(self) -> None:
        """Join the group, and see to its end."""
        torch.set_num_threads(1)  # a fork would wait for OpenMP's threads, which it does not have
        super().setup_distributed()
        atexit.register(_end_group)


def _end_group() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def fork_ranks(words: Sequence[str], world: int = 2, timeout: float = 240) -> list[int]:
    """Run a command on several ranks, as torchrun starts them; return their exit codes.

    They are forked, as started ones would import for seconds before they work for a moment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork(words, _told(world, rank, port)) for rank in range(world)]
    codes: dict[int, int] = {}
    deadline = time.monotonic() + timeout
    while len(codes) < world:
        for pid in (pid for pid in children if pid not in codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for pid in (pid for pid in children if pid not in codes):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in children]


def _told(world: int, rank: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank."""
    told = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
    own = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    return own | {name: str(value) for name, value in told.items()}


def _fork(words: Sequence[str], told: dict[str, str]) -> int:
    if pid := os.fork():
        return pid
    code = 1
    try:
        torch.set_num_threads(1)  # it would wait for OpenMP's threads, which it does not have
        os.environ.update(told)
        code = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the parent's is to be ended here
