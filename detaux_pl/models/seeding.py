"""Randomness that a resumed run repeats."""

from __future__ import annotations

import os

import numpy as np
import torch


def reseed(seed: int, epoch: int, rank: int) -> None:
    """Seed torch's global generators, which dropout draws from, for one epoch of one rank.

    Called at the first batch of every training epoch, it makes a run that was resumed at the end
    of an epoch equal to an undisturbed one: the random state, which Lightning's checkpoints leave
    out, then follows from the epoch alone. Called before that, in `on_train_epoch_start`, it does
    not: in a run's first epoch the iterator over the data, which draws a number, is older than
    the hook, in the others it is younger.

    Args:
        seed: Seed of the run; not negative.
        epoch: Number of the epoch, from 0.
        rank: Global rank of the process, so that ranks drop different units.
    """
    sequence = np.random.SeedSequence([seed, epoch, rank])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def reseed_epoch(batch_idx: int, epoch: int, rank: int) -> None:
    """Call `reseed` at the first batch of an epoch, with the seed of `seed_everything`, if any."""
    if batch_idx == 0 and (seed := os.environ.get("PL_GLOBAL_SEED")) is not None:
        reseed(int(seed), epoch, rank)
