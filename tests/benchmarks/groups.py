"""The group sheet of many images and cells against a loop over the cells."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.evaluation.groups import describe_groups, group_sheet
from detaux_pl.evaluation.significance import wilson
from detaux_pl.evaluation.together import Sureness, Together

_N, _CLASSES, _GROUPS = 100_000, 100, 10


def measure() -> Iterator[tuple[str, float, str]]:
    """Yield what is measured: name, value, unit."""
    rng = np.random.default_rng(0)
    ids, every = np.arange(2 * _N), np.ones(2 * _N)
    labels, groups = rng.integers(0, _CLASSES, 2 * _N), rng.integers(0, _GROUPS, 2 * _N)
    said = np.where(rng.random(2 * _N) < 0.9, labels, (labels + 1) % _CLASSES)
    names = tuple(map(str, range(_CLASSES)))
    val, test = (
        Together(
            "label", (0,), names, 1.0, ids[part], labels[part], said[part], every[part],
            every[part], said[None, part], Sureness([]), Sureness([]),
        )
        for part in (slice(_N), slice(_N, None))
    )  # fmt: skip
    splits = np.where(ids < _N, 1, 2).astype(np.int8)
    task = AuxiliaryLabels(ids, splits, groups, every < 0, every.astype(np.float32), _GROUPS)
    start = time.perf_counter()
    describe_groups(group_sheet(val, test, task, labels))
    ours = time.perf_counter() - start
    start = time.perf_counter()
    for own in (val, test):
        of = task.of(own.ids)
        for k in range(_CLASSES):
            for g in range(_GROUPS):
                cell = (own.targets == k) & (of == g)
                wilson(int(own.right[cell].sum()), int(cell.sum()))
    loop = time.perf_counter() - start
    cells = f"{_N:,} validation and as many test images, {_CLASSES * _GROUPS:,} cells"
    yield f"group sheet, {cells}", ours, "s"
    yield "ratio to a loop over cells", loop / ours, "x"
