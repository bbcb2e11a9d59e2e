"""Several ranks in a test."""

import atexit

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed


class Spawned(DDPStrategy):
    """Ranks in processes of their own, which end their group before their interpreter ends.

    Lightning leaves that to the interpreter with gloo, whose threads then abort the process now
    and then, long after all is done.

    The processes are forked where that is safe, without threads of OpenMP or of a GPU: a spawned
    one imports for seconds before it trains for a moment.
    """

    def __init__(self) -> None:
        safe = torch.get_num_threads() == 1 and not torch.cuda.is_available()
        super().__init__(start_method="fork" if safe else "spawn")

    def setup_distributed(self) -> None:
        """Join the group, and see to its end."""
        super().setup_distributed()
        atexit.register(_end_group)


def _end_group() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
