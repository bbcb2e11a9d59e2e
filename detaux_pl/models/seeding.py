"""Randomness that a resumed run repeats."""

from __future__ import annotations

import os

import numpy as np
import torch


def reseed(seed: int, epoch: int, batch: int, rank: int, device: torch.device) -> None:
    """Seed torch's global generators, which dropout draws from, for one batch of one rank.

    Called at every training batch, it makes a resumed run, wherever it was stopped, equal to an
    undisturbed one: the random state, which Lightning's checkpoints leave out, then follows from
    the place in the training alone. Takes some 15 us.

    Args:
        seed: Seed of the run; not negative.
        epoch: Number of the epoch, from 0.
        batch: Number of the batch in its epoch, from 0.
        rank: Global rank of the process, so that ranks drop different units.
        device: Where the model is: its generator is seeded, and that of the CPU.
    """
    sequence = np.random.SeedSequence([seed, epoch, batch, rank])
    state = int(sequence.generate_state(1, np.uint64)[0])
    # torch.manual_seed seeds every kind of device there might be, which takes 80 us.
    torch.default_generator.manual_seed(state)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(state)


def reseed_batch(epoch: int, batch: int, rank: int, device: torch.device) -> None:
    """Call `reseed` with the seed of `seed_everything`, if there is one."""
    if (seed := os.environ.get("PL_GLOBAL_SEED")) is not None:
        reseed(int(seed), epoch, batch, rank, device)
