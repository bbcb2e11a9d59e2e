"""All metrics of disentanglement: the records of the modules of this room."""

from __future__ import annotations

import math
import pkgutil
from importlib import import_module

import detaux_pl.metrics
from detaux_pl.metrics.metric import Metric, Score


def _find() -> dict[str, Metric]:
    """Find the `METRIC` of every module, by its key and in the order of tables.

    Raises:
        TypeError: If one is no record.
        ValueError: If two have the same key, or a score in common.
    """
    found: dict[str, Metric] = {}
    owners: dict[str, str] = {}
    for each in pkgutil.iter_modules(detaux_pl.metrics.__path__, "detaux_pl.metrics."):
        module = import_module(each.name)
        record = getattr(module, "METRIC", None)
        if record is None:
            continue
        if not isinstance(record, Metric):
            raise TypeError(f"METRIC of {module.__name__} is {record!r}: make it a Metric.")
        for key in [f"the metric {record.key!r}", *(f"the score {key!r}" for key in record.scores)]:
            if key in owners:
                raise ValueError(
                    f"{key} is of {owners[key]} and of {module.__name__}: rename one of them."
                )
            owners[key] = module.__name__
        found[record.key] = record
    return dict(sorted(found.items(), key=lambda item: (item[1].place, item[0])))


RECORDS = _find()
"""The metrics by their keys, in the order of tables."""

SCORES = {key: score for record in RECORDS.values() for key, score in record.scores.items()}
"""How to read every score, in that order."""


def find_score(key: str) -> Score:
    """Return how to read a score; one of another version, which is not known, by its own name.

    Args:
        key: Name of a score in `metrics.json`.
    """
    unknown = Score(key.replace("_", " "), "", None, (-math.inf, math.inf))
    return SCORES.get(key, unknown)
