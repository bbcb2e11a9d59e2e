"""Several ranks in a test."""

import atexit

from lightning.pytorch.strategies import DDPStrategy
from torch import distributed


class Spawned(DDPStrategy):
    """`ddp_spawn` whose ranks end their group before their interpreter ends.

    Lightning leaves that to the interpreter with gloo, whose threads then abort the process now
    and then, long after all is done.
    """

    def __init__(self) -> None:
        super().__init__(start_method="spawn")

    def setup_distributed(self) -> None:
        """Join the group, and see to its end."""
        super().setup_distributed()
        atexit.register(_end_group)


def _end_group() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
