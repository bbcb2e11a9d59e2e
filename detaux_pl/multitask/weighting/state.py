"""What a weighting remembers from step to step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, distributed, nn

from detaux_pl.losses.gather import world_size


class State(nn.Module):
    """A tensor that checkpoints hold, and that keeps its precision and its device.

    A buffer would follow the model to another device, whence to read it would halt every step,
    and lose digits with `precision="bf16-true"`. It must be equal on all ranks, as rank 0 writes
    the checkpoint.

    Args:
        value: What it starts from.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def get_extra_state(self) -> Tensor:
        """Return what a checkpoint holds."""
        return self.value

    def set_extra_state(self, state: Tensor) -> None:
        """Take what a checkpoint holds."""
        self.value = state.to(self.value.device)


class Draws(nn.Module):
    """Random numbers that are a function of a seed and the number of the step.

    They are therefore equal on all ranks and in a resumed run, and other random numbers of the
    training stay what they are.

    Args:
        seed: Seed of all steps; not negative.

    Raises:
        ValueError: If the seed is negative.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        if seed < 0:
            raise ValueError(f"seed is {seed}: give 0 or more.")
        self.seed = seed
        self.step = State(torch.tensor(0))

    def next(self) -> np.random.Generator:
        """Return the generator of the next step."""
        step = int(self.step.value)
        self.step.value = torch.tensor(step + 1)
        return np.random.default_rng([self.seed, step])


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean over all ranks, of a tensor that may be overwritten."""
    if world_size() == 1:
        return tensor
    distributed.all_reduce(tensor)
    return tensor / world_size()
