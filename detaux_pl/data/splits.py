"""Splits for data that come without."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import SPLITS

SPLIT_NAMES = {
    "train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2,
    "testing": 2,
}  # fmt: skip
"""Index into `SPLITS` of what splits are called elsewhere."""

_TRAIN = SPLITS.index("train")


def check_share(split: str, share: float) -> None:
    """Check a share of the training samples.

    Raises:
        ValueError: If it is outside [0, 1).
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"the share of {split} is {share}: give a number in [0, 1).")


def hold_out(
    splits: NDArray[np.int8],
    labels: NDArray[np.int64],
    split: str,
    share: float,
    rng: np.random.Generator,
) -> None:
    """Move a share of the training samples of every class to another split, in place.

    Of each class at least two samples stay in train, as many as a pair of the class needs; a
    smaller class stays there whole. A class that has more is never left out, however small its
    share: pairs, and accuracies of classes, need it there.

    Args:
        splits: Index into `SPLITS` of each sample, shape (N,).
        labels: Principal label of each sample, shape (N,).
        split: `val` or `test`.
        share: Share of the training samples, in [0, 1).
        rng: Source of the randomness.

    Raises:
        ValueError: If the share is outside its range.

    Example:
        >>> splits, labels = np.zeros(100, np.int8), np.repeat([0, 1], 50)
        >>> hold_out(splits, labels, "val", 0.2, np.random.default_rng(0))
        >>> np.bincount(labels[splits == 1])
        array([10, 10])
    """
    check_share(split, share)
    rows = np.flatnonzero(splits == _TRAIN)
    rows = rng.permutation(rows)
    rows = rows[np.argsort(labels[rows], kind="stable")]  # by class, in random order
    _, starts, counts = np.unique(labels[rows], return_index=True, return_counts=True)
    rank = np.arange(len(rows)) - np.repeat(starts, counts)
    spare = np.maximum(counts - 2, 0)
    wanted = np.clip(np.rint(counts * share), 1 if share > 0 else 0, None)
    wanted = np.minimum(wanted, spare)
    splits[rows[rank < np.repeat(wanted, counts)]] = SPLITS.index(split)


def draw_missing(
    splits: NDArray[np.int8],
    labels: NDArray[np.int64],
    val_share: float,
    test_share: float,
    seed: int,
) -> None:
    """Hold out test, then val of what is left, where the data have no sample of them, in place.

    Args:
        splits: Index into `SPLITS` of each sample, shape (N,).
        labels: Principal label of each sample, shape (N,).
        val_share: Share of the training samples, in [0, 1).
        test_share: Share of the training samples, in [0, 1).
        seed: Seed of the drawing.

    Example:
        >>> splits = np.zeros(100, np.int8)
        >>> draw_missing(splits, np.repeat([0, 1], 50), val_share=0.1, test_share=0.2, seed=0)
        >>> np.bincount(splits)  # train, val, test
        array([72,  8, 20])
    """
    for split, share in (("test", test_share), ("val", val_share)):
        index = SPLITS.index(split)
        if not (splits == index).any():
            hold_out(splits, labels, split, share, np.random.default_rng([seed, index]))
