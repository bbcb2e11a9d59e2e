"""Splits for data that come without."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import SPLITS, UNLABELLED
from detaux_pl.artifacts.errors import UserError

SPLIT_NAMES = {
    "train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2,
    "testing": 2,
}  # fmt: skip
"""Index into `SPLITS` of what splits are called elsewhere."""

_TRAIN = SPLITS.index("train")
_UNLABELLED = SPLITS.index(UNLABELLED)


def set_apart(
    splits: NDArray[np.int8], labelled: NDArray[np.bool_], where: str, principal: str
) -> None:
    """Put the samples without a label into the split of such, in place.

    Args:
        splits: Index into `SPLITS` of each sample, shape (N,).
        labelled: Whether each has a label, shape (N,).
        where: The data, for the message.
        principal: What the labels are called.

    Raises:
        UserError: If no sample of train has a label.
    """
    splits[~labelled] = _UNLABELLED
    if not labelled.all() and not (splits == _TRAIN).any():
        raise UserError(
            f"{where} has {np.count_nonzero(~labelled):,} images without a label of {principal!r}, "
            "and no training image with one: give labels to images of at least 2 classes."
        )


def split_index(name: str) -> int | None:
    """Return the index into `SPLITS` of what a split is called, whatever its case."""
    return SPLIT_NAMES.get(name.strip().lower())


def column_split(text: str) -> int | None:
    """Return the index that a value of a column of splits means: a name, or 0, 1 or 2."""
    bare = text.strip().removesuffix(".0")
    return int(bare) if bare in ("0", "1", "2") else split_index(text)


class LeftOut:
    """Splits of the data that are left aside.

    Args:
        given: Names as the data have them, or as they are usually called; None for no split.

    Raises:
        ValueError: If one is the training split.

    Example:
        >>> left_out = LeftOut(["test"])
        >>> "Testing" in left_out, "train" in left_out
        (True, False)
    """

    def __init__(self, given: Sequence[str] | None) -> None:
        self.names = [str(name) for name in given or ()]
        if isinstance(given, str) or _TRAIN in map(column_split, self.names):
            raise ValueError(
                f"leave_out is {given!r}: give a list of splits, such as [test], without train."
            )

    def __bool__(self) -> bool:
        return bool(self.names)

    def __contains__(self, name: object) -> bool:
        text = str(name).strip().lower()
        index = column_split(text)
        return any(
            text == own.strip().lower() or (index is not None and index == column_split(own))
            for own in self.names
        )

    def check(self, held: Collection[str], where: str) -> None:
        """Check that each is there to be left out.

        Args:
            held: What the splits of the data are called.
            where: The data, for the message.

        Raises:
            UserError: If one is not.
        """
        for own in self.names:
            if not any(name in LeftOut([own]) for name in held):
                raise UserError(
                    f"leave_out names {own!r}, but {where} has "
                    f"{'the splits ' + ', '.join(map(str, held)) if held else 'no split'}."
                )


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
