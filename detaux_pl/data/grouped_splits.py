"""Splits that keep the images of one source together: of one person, sender, track or object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.artifacts.errors import UserError

_TRAIN = SPLITS.index("train")
_STAYS = 2
"""Samples of a class that train keeps, as many as a pair of it needs."""


def hold_out_groups(
    splits: NDArray[np.int8],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    split: str,
    share: float,
    rng: np.random.Generator,
) -> bool:
    """Move whole groups of training samples to another split, about a share of each class.

    Groups are gone through in random order, and one is taken where it brings the split nearer to
    the share of each class, summed over classes, and leaves two samples of each in train. Where
    that is true of none, the one that misses the shares least is taken.

    Args:
        splits: Index into `SPLITS` of each sample, shape (N,); changed in place.
        labels: Principal label of each sample, from 0, shape (N,).
        groups: Group of each sample, from 0, shape (N,).
        split: `val` or `test`.
        share: Share of the training samples, in [0, 1).
        rng: Source of the randomness.

    Returns:
        Whether a group could be taken; True where the share is 0.

    Example:
        >>> splits, groups = np.zeros(80, np.int8), np.arange(80) // 10
        >>> labels = np.arange(80) % 2
        >>> hold_out_groups(splits, labels, groups, "test", 0.25, np.random.default_rng(0))
        True
        >>> np.bincount(groups[splits == 2], minlength=8)
        array([ 0,  0, 10,  0, 10,  0,  0,  0])
    """
    if share == 0:
        return True
    rows = np.flatnonzero(splits == _TRAIN)
    cells, counts = np.unique(
        np.stack([groups[rows], labels[rows]], axis=1), axis=0, return_counts=True
    )
    starts = np.flatnonzero(np.diff(cells[:, 0], prepend=-1))
    classes = np.split(cells[:, 1], starts[1:])
    numbers = np.split(counts, starts[1:])
    total = np.bincount(labels[rows]).astype(float)
    missing, left = share * total, total.copy()
    taken = []
    nearest, least = None, np.inf
    for k in rng.permutation(len(starts)).tolist():
        own, n = classes[k], numbers[k]
        if (left[own] - n < np.minimum(_STAYS, total[own])).any():
            continue
        farther = float((abs(missing[own] - n) - abs(missing[own])).sum())
        if farther < 0:
            taken.append(k)
            missing[own] -= n
            left[own] -= n
        elif farther < least:
            nearest, least = k, farther
    if not taken and nearest is not None:
        taken.append(nearest)
    held = cells[starts[taken], 0]
    splits[rows[np.isin(groups[rows], held)]] = SPLITS.index(split)
    return bool(taken)


def draw_missing_groups(
    splits: NDArray[np.int8],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    shares: dict[str, float],
    seed: int,
    name: str,
) -> NDArray[np.bool_]:
    """Hold out test, then val of what is left, where the data have none, by whole groups.

    Args:
        splits: Index into `SPLITS` of each sample, shape (N,); changed in place.
        labels: Principal label of each sample, or -1 without one, shape (N,).
        groups: Group of each sample, from 0, or -1 where it is unknown, shape (N,).
        shares: Share of the training samples for `val` and for `test`, in [0, 1).
        seed: Seed of the drawing.
        name: What the groups are called, for messages.

    Returns:
        Which samples are kept, shape (N,): all but those without a label of a group that is held
        out, for clusters are looked for among samples without a label, where it must not be seen.

    Raises:
        UserError: If a group stands in two splits of the data, or none can be held out.
    """
    for split in ("test", "val"):
        index = SPLITS.index(split)
        if (splits == index).any():
            continue
        rng = np.random.default_rng([seed, index])
        if not hold_out_groups(splits, labels, groups, split, shares[split], rng):
            n = len(np.unique(groups[splits == _TRAIN]))
            raise UserError(
                f"split_by is {name}, of which no value can be held out for {split}: train has "
                f"{n}, and needs {_STAYS} images of each class. Give what has more values, or "
                f"{split}_share: 0."
            )
    known = (groups >= 0) & (labels >= 0)
    pairs = np.unique(np.stack([groups[known], splits[known]], axis=1), axis=0)
    values, counts = np.unique(pairs[:, 0], return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"split_by is {name}, but {np.count_nonzero(counts > 1):,} of {len(values):,} values "
            "stand in more than one of the splits that the data have: leave these splits aside "
            "(split_column: null of a table), or leave split_by out."
        )
    held = np.unique(groups[known & (splits != _TRAIN)])
    return (labels >= 0) | ~np.isin(groups, held)
