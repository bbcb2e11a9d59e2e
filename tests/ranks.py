"""Several ranks in a test."""

import atexit
import socket
from collections.abc import Sequence

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed

from detaux_pl.cli.main import main
from tests.children import start_child


class Spawned(DDPStrategy):
    """Ranks in processes of their own, which end their group before their interpreter ends.

    Lightning leaves that to the interpreter with gloo, whose threads then abort the process now
    and then, long after all is done.

    The processes are forked where there is no GPU: a spawned one imports for seconds before it
    trains for a moment, and what a test trains is often of a class within it.
    """

    def __init__(self) -> None:
        super().__init__(start_method="spawn" if torch.cuda.is_available() else "fork")

    def setup_distributed(self) -> None:
        """Join the group, and see to its end."""
        torch.set_num_threads(1)  # a fork would wait for OpenMP's threads, which it does not have
        super().setup_distributed()
        atexit.register(end_group)


def end_group() -> None:
    """End the group of this process, if it has joined one: the end of a script of several ranks."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def fork_ranks(words: Sequence[str], world: int = 2) -> list[int | None]:
    """Run a command on several ranks, as torchrun starts them; return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        start_child(main, list(words), environment=_told(world, rank, port))
        for rank in range(world)
    ]
    for rank in ranks:
        rank.join()
    return [rank.exitcode for rank in ranks]


def _told(world: int, rank: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank."""
    told = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
    own = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    return own | {name: str(value) for name, value in told.items()}
