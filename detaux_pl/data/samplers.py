"""Which rows a rank sees in which batch, and how a resumed run finds its place again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from detaux_pl.data.factor_dataset import as_rows


class TrainSampler(DistributedSampler[Any]):
    """Row numbers of the training batches of one rank; incomplete batches are left out.

    A DistributedSampler by name, so that Lightning leaves it as it is and tells it the epoch.

    Args:
        draw: Gives the rows of an epoch, shape (n,) or (2, n), from the epoch's generator.
        n: How many it gives.
        batch_size: Batch of one rank.
        seed: Seed of the order.
        rank: This process.
        world: Number of processes.
        progress: Gives the number of batches that the training has taken from this epoch, which
            are left out: more than none where it goes on from a checkpoint.
    """

    def __init__(
        self,
        draw: Callable[[np.random.Generator], NDArray[np.int64]],
        n: int,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        progress: Callable[[], int],
    ) -> None:
        super().__init__(_Sized(n), num_replicas=world, rank=rank)
        self.draw = draw
        self.n = n
        self.batch_size = batch_size
        self.run_seed = seed
        self.progress = progress

    def __iter__(self) -> Iterator[Tensor]:
        drawn = as_rows(self.draw(np.random.default_rng([self.run_seed, self.epoch + 1])))
        blocks = torch.split(drawn, self.batch_size, dim=-1)
        mine = blocks[self.rank : len(self) * self.num_replicas : self.num_replicas]
        return iter(mine[self.progress() :])

    def __len__(self) -> int:
        return self.n // (self.batch_size * self.num_replicas)


class EvalSampler(DistributedSampler[Any]):
    """Row numbers of the evaluation batches of one rank: each row on one rank, none repeated.

    All ranks get the same number of batches, so that none waits for another.

    Args:
        rows: All rows, shape (n,) or (2, n).
        size: Largest batch of one rank.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, rows: NDArray[np.int64], size: int, rank: int, world: int) -> None:
        super().__init__(_Sized(rows.shape[-1]), num_replicas=world, rank=rank)
        own = torch.tensor_split(as_rows(rows), world, dim=-1)[rank]
        n_batches = -(-rows.shape[-1] // (size * world))
        self.batches = torch.tensor_split(own, n_batches, dim=-1)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class TrainLoader(DataLoader[Any]):
    """A loader over a `TrainSampler`, which finds the place where a checkpoint was saved."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator starts at the first batch: Lightning asks for the iterator before the epoch
        # and the place in it are known, and workers would begin to read at once.
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """Return nothing: the place is the trainer's, and kept with it.

        Lightning takes a loader that has a state for one that can be resumed. It does not give it
        back where a schedule has asked for the length of the epoch first.
        """
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take nothing back."""


class _Sized(Dataset[Any]):
    """A data set of which only the length is known, as DistributedSampler asks for one."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length
