"""Which subspace holds a task of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import UserError

Rule = Literal["ratio", "min_l_dist", "abs_dot"]

MARGIN = 0.05
"""Margin of the distance loss, on the squared distance. Paper: "m", no value."""

MIN_MOVE = 0.05
"""What counts as a move of a subspace: this share of the distance between two random codes."""

_CHUNK = 1 << 22
"""Numbers to hold at a time while measuring distances: 32 MB."""


@dataclass(frozen=True)
class SubspaceScore:
    """What pairs of samples with the same principal label say of one subspace.

    D is the squared distance of a pair in this subspace. The oracle selects for each pair the one
    free subspace, other than the principal one, in which the pair differs most for its scale. Where
    the codes have no principal subspace, all are free.

    Args:
        subspace: Index of the subspace.
        share: Share of the pairs for which it is selected.
        distance: Mean distance of those pairs; 0 where there is none.
        ratio: Mean D of the other pairs over mean D of those: small where the subspace moves only
            when it is the one to move, 0 where it always is. None where it never moves.
        loss: Its part of the distance loss, `mean (1-A) D + 10 mean A relu(margin - D)`, in the
            units of the codes.
        dot: Size of the mean dot product with the principal subspace; None where there is none.
        candidate: Whether it may be chosen by its ratio.
    """

    subspace: int
    share: float
    distance: float
    ratio: float | None
    loss: float
    dot: float | None
    candidate: bool


def score_subspaces(
    codes: Codes, rng: np.random.Generator, n_pairs: int = 10_000
) -> list[SubspaceScore]:
    """Score every subspace on pairs of training samples with the same principal label.

    The oracle is the argmax over the free subspaces of `D / (m + 1e-8)`, where m is the mean
    distance of random training pairs in the subspace. A free subspace, one of F, is a candidate
    where it is selected for at least half of its even share, `0.5 / F`, and where the selected
    pairs are apart: by `MIN_MOVE` of the root mean square distance of random pairs in all subspaces
    together. The latter keeps subspaces out that won only because nothing moved. An
    absolute `sqrt(MARGIN)` would be a length in the codes of one loss; a share is the
    same for codes of every family and scale, as is HDBSCAN.

    Args:
        codes: Codes of all samples; only the train split counts.
        rng: Source of the pairs.
        n_pairs: Number of pairs of either kind. The standard error of `share` is below
            `0.5 / sqrt(n_pairs)`.

    Returns:
        One score per subspace, in their order; the principal one has share 0.

    Raises:
        UserError: If no two training samples share a principal label.

    References:
        Skenderi et al., Detaux: L_dist per subspace. The official code takes `dot` alone.
    """
    train = codes.rows("train")
    values, principal = codes.values, codes.info.principal_subspace
    same = train[_same_class_pairs(codes.factor(codes.info.principal)[train], n_pairs, rng)]
    squared = _squared_distances(values, *same)
    random = _squared_distances(values, *train[rng.integers(len(train), size=(2, n_pairs))])

    k = values.shape[1]
    free = np.array([i != principal for i in range(k)])
    moved = np.where(free, squared / (np.sqrt(random).mean(axis=0) + 1e-8), -1.0)
    selected = (moved.argmax(axis=1)[:, None] == np.arange(k)) & free
    least = MIN_MOVE * np.sqrt(random.sum(axis=1).mean())
    dots: list[float] | list[None] = [None] * k
    if principal is not None:
        total = np.zeros(k)
        for part in _chunks(train, values):
            # n = samples, d = dims, k = subspaces.
            own = values[part]
            total += np.einsum("nd,nkd->k", own[:, principal], own, dtype=np.float64)
        dots = np.abs(total / len(train)).tolist()

    scores = []
    for i in range(k):
        inside, outside = squared[selected[:, i], i], squared[~selected[:, i], i]
        share = inside.size / n_pairs
        distance = float(np.sqrt(inside).mean()) if inside.size else 0.0
        rest = float(outside.mean()) if outside.size else 0.0
        scores.append(
            SubspaceScore(
                subspace=i,
                share=share,
                distance=distance,
                ratio=rest / float(inside.mean()) if distance > 0 else None,
                loss=float(outside.sum() + 10 * np.maximum(MARGIN - inside, 0).sum()) / n_pairs,
                dot=dots[i],
                candidate=bool(
                    free[i] and share >= 0.5 / free.sum() and distance > 0 and distance >= least
                ),
            )
        )
    return scores


def rank_subspaces(
    scores: list[SubspaceScore], rule: Rule = "ratio", principal: int | None = 0
) -> list[int]:
    """Order the subspaces that a rule allows, the best first.

    Both published rules prefer a DEAD subspace to every other one: where all codes are alike, the
    distance loss and the dot product are least. They are here to reproduce, not to be used.

    Args:
        scores: Scores of all subspaces.
        rule: `ratio` takes the candidate of the smallest ratio; `min_l_dist` the smallest
            distance loss (paper), `abs_dot` the smallest dot product (official code), each among
            all but the principal subspace.
        principal: Index of the principal subspace; None where there is none.

    Returns:
        Indices of subspaces; none where no subspace is a candidate.

    Raises:
        UserError: If the rule is `abs_dot` and there is no principal subspace.

    Example:
        >>> still = SubspaceScore(1, 0.0, 0.0, ratio=None, loss=0.0, dot=0.0, candidate=False)
        >>> moving = SubspaceScore(2, 1.0, 2.0, ratio=0.0, loss=0.1, dot=0.2, candidate=True)
        >>> rank_subspaces([still, moving]), rank_subspaces([still, moving], "min_l_dist")
        ([2], [1, 2])
    """
    if rule == "abs_dot" and principal is None:
        raise UserError(
            "rule is abs_dot, but the codes have no principal subspace: take ratio or min_l_dist."
        )
    allowed = [s for s in scores if (s.candidate if rule == "ratio" else s.subspace != principal)]
    field = {"ratio": "ratio", "min_l_dist": "loss", "abs_dot": "dot"}[rule]
    return [s.subspace for s in sorted(allowed, key=lambda s: float(getattr(s, field)))]


def _same_class_pairs(
    labels: NDArray[np.int64], n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw n pairs of positions with the same label, never a position with itself: (2, n).

    The first is uniform over the positions that have a partner, the second over its partners.
    """
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    start, count = np.repeat(starts, counts), np.repeat(counts, counts)
    paired = np.flatnonzero(count > 1)
    if paired.size == 0:
        raise UserError(
            f"no two of the {len(labels)} training samples share a principal label: "
            "the subspaces cannot be told apart. Give more samples, or a coarser label."
        )
    first = rng.choice(paired, n)
    start, count = start[first], count[first]
    second = start + (first - start + rng.integers(1, count)) % count
    pairs: NDArray[np.int64] = by_class[np.stack([first, second])]
    return pairs


def _squared_distances(
    values: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Squared Euclidean distance of pairs of rows in each subspace, shape (n, K)."""
    result = np.empty((len(first), values.shape[1]))
    for part in _chunks(np.arange(len(first)), values):
        difference = values[first[part]].astype(np.float64) - values[second[part]]
        result[part] = np.einsum("nkd,nkd->nk", difference, difference)
    return result


def _chunks(rows: NDArray[np.int64], values: NDArray[np.float32]) -> Iterator[NDArray[np.int64]]:
    """Cut rows into pieces whose codes may be held at a time."""
    _, k, d = values.shape
    step = max(1, _CHUNK // (k * d))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
