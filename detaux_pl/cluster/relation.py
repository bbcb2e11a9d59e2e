"""How groups relate to the label: unrelated, a shortcut, a subclass, or the label itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.metrics.agreement import contingency

Kind = Literal["unrelated", "shortcut", "subclass", "label"]

LEVEL = 0.05
"""p-value below which groups go with the label."""
EFFECT = 0.4
"""Cramér's V that they must reach: clusters that cut through a badly coded label reach 0.3."""
DEPTH = 0.5
"""Depth of the rare samples from which a label that is coded badly does not explain them; 1 at the
centre of their group, 0 half-way to another one."""
PURE = 0.995
"""Share of samples in the commonest class of their group from which groups lie within classes."""
PERMUTATIONS = 999
_SAMPLES = 100_000
"""Samples that are permuted, at most."""
_AT_ONCE = 1 << 20
"""Labels that are dealt out at a time."""


@dataclass(frozen=True)
class Relation:
    """How groups relate to the label.

    Args:
        kind: `unrelated`; `shortcut`: they go with the label without being it; `subclass`: they
            split classes; `label`: they are the classes, or a blur of them.
        effect: Cramér's V, corrected for its bias, from 0 (independent) to 1.
        p_value: That labels dealt out at random go with any of the groups asked about as much.
        purity: Share of the samples that are of the commonest class of their group.
        depth: Median depth of the rare samples, see `depth_of_rare`; None where there is none.
    """

    kind: Kind
    effect: float
    p_value: float
    purity: float
    depth: float | None


def relate(
    groupings: Sequence[NDArray[np.int64]],
    labels: NDArray[np.int64],
    points: Sequence[NDArray[np.floating]],
    seed: int = 0,
) -> list[Relation]:
    """Say how each of several groupings relates to the label.

    The p-value is corrected for their number: labels are permuted for all of them at once, and a
    grouping's statistic, `(chi² - df) / sqrt(2 df)`, is held against the largest of a permutation.

    Args:
        groupings: Group of each sample from 0, or `IGNORED`, each shape (N,).
        labels: Principal label of each, shape (N,).
        points: What each grouping groups, of `permuted_rows(N, seed)` alone, each shape (M, D).
        seed: Seed of the permutations.

    References:
        Westfall & Young 1993, "Resampling-Based Multiple Testing": the largest of all statistics.
        Bergsma 2013, "A bias-correction for Cramér's V and Tschuprow's T".

    Example:
        >>> labels = np.repeat([0, 1], 100)
        >>> other, own = np.tile([0, 1], 100), np.where(np.arange(200) % 10 == 0, 0, labels)
        >>> groupings = [other, own, labels, 2 * labels + other]
        >>> points = [groups[:, None].astype(float) for groups in groupings]
        >>> [each.kind for each in relate(groupings, labels, points)]
        ['unrelated', 'shortcut', 'label', 'subclass']
    """
    rng, some = _draw(len(labels), seed)
    tables = [_Table(groups[some], labels[some]) for groups in groupings]
    largest = np.full(PERMUTATIONS, -np.inf)
    step = max(1, _AT_ONCE // max(len(some), 1))
    for start in range(0, PERMUTATIONS if tables else 0, step):
        part = slice(start, min(start + step, PERMUTATIONS))
        dealt = rng.permuted(np.tile(labels[some], (part.stop - start, 1)), axis=1)
        largest[part] = np.max([table.statistics(dealt) for table in tables], axis=0)
    found = []
    for table, groups, own_points in zip(tables, groupings, points, strict=True):
        own = table.statistics(labels[some][None])[0]
        p = float((1 + (largest >= own - 1e-9).sum()) / (1 + PERMUTATIONS))
        effect = table.effect(labels[some])
        counts = count(groups, labels)
        purity = float(counts.max(axis=0).sum() / max(counts.sum(), 1))
        kind: Kind = "shortcut"
        if p >= LEVEL or effect < EFFECT:
            kind = "unrelated"
        elif purity >= PURE:
            n_classes, n_groups = ((counts.sum(axis=axis) > 0).sum() for axis in (1, 0))
            kind = "subclass" if n_groups > n_classes else "label"
        depth = depth_of_rare(groups[some], labels[some], own_points)
        if kind == "shortcut" and (depth is None or depth < DEPTH):
            kind = "label"
        found.append(Relation(kind, effect, p, purity, depth))
    return found


def permuted_rows(n: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of n samples that are permuted, ascending: at most 100,000."""
    return _draw(n, seed)[1]


def _draw(n: int, seed: int) -> tuple[np.random.Generator, NDArray[np.int64]]:
    rng = np.random.default_rng([seed, 4])
    return rng, np.sort(rng.permutation(n)[:_SAMPLES])


def count(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count samples by label and group, shape (C, G); those in no group are left out."""
    inside = groups != IGNORED
    shape = (int(labels.max(initial=0)) + 1, int(groups.max(initial=0)) + 1)
    return contingency(labels[inside], groups[inside], shape)


def rare_cells(counts: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Say which cells have fewer samples than by chance, and how many that would be, (C, G)."""
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / max(counts.sum(), 1)
    return counts < expected, expected


def depth_of_rare(
    groups: NDArray[np.int64], labels: NDArray[np.int64], points: NDArray[np.floating]
) -> float | None:
    """How deep samples lie in their group that their label makes rare there, median.

    On the line from the centre of its group to any other centre a sample is at `t`, 0 to 1; its
    depth is the least `1 - 2t`. Samples that are there because their label is coded badly lie
    near another group; those of a shortcut lie as deep as any.

    Args:
        groups: Group of each sample from 0, or `IGNORED`, shape (N,).
        labels: Principal label of each, shape (N,).
        points: What is grouped, shape (N, D).
    """
    inside = np.flatnonzero(groups != IGNORED)
    groups, labels = groups[inside], labels[inside]
    if not len(groups) or groups.max() == 0:
        return None
    counts = count(groups, labels)
    there = np.flatnonzero(counts.sum(axis=0) > 0)
    if len(there) < 2:
        return None
    rare = rare_cells(counts)[0][labels, groups]
    if not rare.any():
        return None
    values = points[inside].astype(np.float64)
    centres = np.stack([values[groups == g].mean(axis=0) for g in there])
    place = np.searchsorted(there, groups[rare])
    offset = values[rare] - centres[place]
    depth = np.full(int(rare.sum()), np.inf)
    for g, centre in enumerate(centres):
        way = centre - centres[place]
        length = np.maximum((way**2).sum(axis=1), 1e-30)
        depth = np.minimum(
            depth, np.where(place == g, np.inf, 1 - 2 * (offset * way).sum(axis=1) / length)
        )
    return float(np.median(depth))


class _Table:
    """Groups, to be held against labels that are dealt out at random."""

    def __init__(self, groups: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        self.rows = np.flatnonzero(groups != IGNORED)
        self.groups = groups[self.rows]
        self.n_groups = int(groups.max(initial=0)) + 1
        self.n_classes = int(labels.max(initial=0)) + 1
        self.columns = np.bincount(self.groups, minlength=self.n_groups)

    def statistics(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """`(chi² - df) / sqrt(2 df)` of each of P dealings of the labels, (P, N), shape (P,)."""
        value, n_classes, n_groups = self._chi2(labels)
        freedom = (n_classes - 1) * (n_groups - 1)
        scaled = (value - freedom) / np.sqrt(2 * np.maximum(freedom, 1))
        return np.where(freedom > 0, scaled, -np.inf)

    def effect(self, labels: NDArray[np.int64]) -> float:
        """Cramér's V, corrected for its bias."""
        value, n_classes, n_groups = (float(each[0]) for each in self._chi2(labels[None]))
        n = len(self.rows)
        if n < 2 or min(n_classes, n_groups) < 2:
            return 0.0
        rest = (n_classes - 1) * (n_groups - 1) / (n - 1)
        sides = [k - 1 - (k - 1) ** 2 / (n - 1) for k in (n_classes, n_groups)]
        return float(np.sqrt(max(value / n - rest, 0.0) / max(min(sides), 1e-9)))

    def _chi2(
        self, labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Pearson's statistic of each dealing, and the numbers of classes and groups, (P,)."""
        size = self.n_classes * self.n_groups
        cells = labels[:, self.rows] * self.n_groups + self.groups
        cells += size * np.arange(len(labels))[:, None]
        flat = np.bincount(cells.ravel(), minlength=size * len(labels))
        counts = flat.reshape(len(labels), self.n_classes, self.n_groups)
        classes = counts.sum(axis=2)
        parts = counts**2 / np.maximum(self.columns, 1)
        n = len(self.rows)
        value = n * (parts.sum(axis=2) / np.maximum(classes, 1)).sum(axis=1) - n
        n_groups = np.full(len(labels), (self.columns > 0).sum())
        return value, (classes > 0).sum(axis=1), n_groups
