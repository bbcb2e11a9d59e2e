"""What `evaluate` cannot measure, refused before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detaux_pl.artifacts.errors import UserError
from detaux_pl.evaluation.disentanglement import METRICS, refuse_impossible
from detaux_pl.settings.choices import closest


def refuse_impossible_evaluation(settings: Mapping[str, Any], factors: Sequence[str]) -> None:
    """Refuse to measure what the data have no labels of, by what there is not, or with nothing.

    Args:
        settings: The settings of `evaluate`.
        factors: Names of the factors of the data.

    Raises:
        UserError: If a task is no factor, a metric is unknown, one of either is named twice, or
            there is to be no task, sample or code.
    """
    tasks, metrics, max_samples = (settings[key] for key in ("tasks", "metrics", "max_samples"))
    if max_samples is not None and max_samples < 1:
        raise UserError(
            f"max_samples of evaluate is {max_samples}: give at least 1, or null for all."
        )
    max_codes = settings["max_codes"]
    if max_codes is not None and max_codes < 1:
        raise UserError(f"max_codes of evaluate is {max_codes}: give at least 1, or null for any.")
    if tasks is not None and (not tasks or len(set(tasks)) < len(tasks)):
        raise UserError(
            f"tasks of evaluate are {list(tasks)}: name each factor once, of "
            f"{', '.join(factors)}; null takes all."
        )
    for task in tasks or ():
        if task not in factors:
            raise UserError(
                f"the task {task!r} of evaluate is no factor of the data: {closest(task, factors)}"
            )
    for metric in metrics or ():
        if metric not in METRICS:
            raise UserError(
                f"metrics of evaluate name {metric!r}, which there is not: "
                f"{closest(metric, METRICS)}"
            )
    if metrics is not None and len(set(metrics)) < len(metrics):
        raise UserError(f"metrics of evaluate are {list(metrics)}: name each once.")


def refuse_impossible_metrics(
    settings: Mapping[str, Any], factors: Sequence[str], n_subspaces: int, dims: int
) -> None:
    """Refuse metrics that codes and factors do not allow, or of too many codes.

    Args:
        settings: The settings of `evaluate`.
        factors: Names of the factors of the data.
        n_subspaces: Number of subspaces K.
        dims: Dimensions D of each.

    Raises:
        UserError: If a metric needs more codes or factors, or metrics are wanted of more than
            `max_codes` codes.
    """
    metrics, max_codes = settings["metrics"], settings["max_codes"]
    n_codes = n_subspaces * dims
    if metrics != [] and max_codes is not None and n_codes > max_codes:
        raise UserError(
            f"the disentangler gives {n_codes} codes ({n_subspaces} x {dims}), but metrics, which "
            f"take long then, are computed of {max_codes} at most: raise evaluate.max_codes "
            f"(--max_codes of `detaux evaluate`), or do without by evaluate.metrics: []."
        )
    refuse_impossible(metrics or (), n_codes, len(settings["tasks"] or factors))
