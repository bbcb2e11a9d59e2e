"""Disentanglement metrics of codes: which one can be had, and all that were asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import UserError
from detaux_pl.evaluation.probes import draw_rows
from detaux_pl.metrics.inputs import Floats, Per, check_codes
from detaux_pl.metrics.mutual_information import mutual_information
from detaux_pl.metrics.records import RECORDS

METRICS = tuple(RECORDS)
"""Names of the metrics."""


class Choice(NamedTuple):
    """What is judged, and by what.

    Args:
        rows: Rows of the test samples that are used, ascending.
        factors: Names of the factors, each with two values or more among them.
        metrics: Names of the metrics to compute.
        left_out: Why each of the others cannot be computed.
    """

    rows: NDArray[np.int64]
    factors: tuple[str, ...]
    metrics: tuple[str, ...]
    left_out: dict[str, str]


def refuse_impossible(metrics: Sequence[str], n_codes: int, n_factors: int) -> None:
    """Refuse metrics that were named and that data or codes do not allow.

    Args:
        metrics: Names of metrics.
        n_codes: Number of codes, subspaces times dimensions.
        n_factors: Number of factors that have two values or more.

    Raises:
        UserError: If one needs more codes or factors.
    """
    for metric in metrics:
        if reason := RECORDS[metric].lack(n_codes, n_factors):
            raise UserError(f"the metric {metric!r} of evaluate {reason}: leave it out.")


def choose_metrics(
    codes: Codes,
    metrics: Sequence[str] | None = None,
    factors: Sequence[str] | None = None,
    max_samples: int | None = None,
    seed: int = 0,
) -> Choice:
    """Choose the metrics that data and codes allow.

    Args:
        codes: What to judge.
        metrics: Names of the metrics; None for all that can be computed.
        factors: Names of the factors to judge by; None for all.
        max_samples: Number of test samples to use at most, drawn at random; None for all.
        seed: Seed of that draw.

    Raises:
        UserError: If there is no test sample, or a metric was named that cannot be computed, or
            with it a factor that has one value only.
    """
    if metrics is not None and not metrics:
        return Choice(np.empty(0, dtype=np.int64), (), (), {})
    rows = draw_rows(codes, "test", max_samples, np.random.default_rng(seed))
    named = codes.info.names if factors is None else tuple(factors)
    varying = tuple(name for name in named if np.unique(codes.factor(name)[rows]).size > 1)
    n_codes = codes.values[0].size
    if metrics is None:
        reasons = {name: RECORDS[name].lack(n_codes, len(varying)) for name in METRICS}
        left_out = {name: reason for name, reason in reasons.items() if reason is not None}
        return Choice(
            rows, varying, tuple(name for name in METRICS if name not in left_out), left_out
        )
    constant = set(named) - set(varying)
    if factors is not None and constant and any(RECORDS[name].least_factors for name in metrics):
        raise UserError(
            f"the task {min(constant)!r} of evaluate has one value only in {len(rows)} test "
            "samples: leave it out, there is nothing to tell by it."
        )
    refuse_impossible(metrics, n_codes, len(varying))
    return Choice(rows, varying, tuple(metrics), {})


def judge_codes(
    codes: Codes,
    metrics: Sequence[str] | None = None,
    factors: Sequence[str] | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    n_jobs: int = 1,
    progress: Callable[[float], None] | None = None,
    kept: MutableMapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compute metrics of codes on test samples, which training did not see.

    Args:
        codes: What to judge.
        metrics: Names of the metrics; None for all that can be computed.
        factors: Names of the factors to judge by; None for all that have two values or more among
            the samples.
        max_samples: Number of test samples to use at most, drawn at random; None for all. Metrics
            that fit and test split them two to one, or take 10,000 and 5,000 of them.
        seed: Seed of all that is drawn.
        n_jobs: Number of threads, or processes where threads would take turns.
        progress: Called with the share of a metric just done: 1 for each of them in all.
        kept: Results by metric: those that it holds are not computed again, and each new one is
            put in at once.

    Returns:
        `shape`, K subspaces and D dimensions; `split`; `n_samples`; names of the `factors`;
        `scores` by name, where a code is one of the K D dimensions (`dim`), and where it is a
        subspace, of metrics that have such a variant (`subspace`, none for D = 1 or K = 1);
        `matrices` `mutual_information` [nats] and those of the metrics, as `importances` for
        boosted trees of DCI, each (K D, F);
        `left_out`, the metrics that could not be computed, with the reason; `seconds` that each
        took.

    Raises:
        UserError: If a code is NaN or infinite, or a metric was named that cannot be computed.
    """
    choice = choose_metrics(codes, metrics, factors, max_samples, seed)
    kept = {} if kept is None else kept
    content: dict[str, Any] = {
        "shape": list(codes.values.shape[1:]),
        "split": "test",
        "n_samples": len(choice.rows),
        "factors": list(choice.factors),
        "scores": {"dim": {}, "subspace": {}},
        "matrices": {},
        "left_out": dict(choice.left_out),
        "seconds": {},
    }
    if not choice.rows.size:
        return content
    values = check_codes(codes.values[choice.rows])
    columns = [codes.info.names.index(name) for name in choice.factors]
    known = codes.factors[choice.rows][:, columns]
    for metric in choice.metrics:
        if metric not in kept:
            try:
                kept[metric] = _judge(metric, values, known, seed, n_jobs, progress)
            except UserError as error:
                if metrics is not None:
                    raise
                kept[metric] = {"left_out": str(error)}
        elif progress is not None:
            progress(1.0)
        result = kept[metric]
        if "left_out" in result:
            content["left_out"][metric] = result["left_out"]
            continue
        for per, scores in result["scores"].items():
            content["scores"][per] |= scores
        content["seconds"][metric] = result["seconds"]
        if (fit := RECORDS[metric].fit) is not None:
            content["matrices"][fit.matrix] = result[fit.matrix]
    if choice.factors:
        content["matrices"]["mutual_information"] = mutual_information(values, known).tolist()
    return content


def _judge(
    metric: str,
    values: Floats,
    factors: NDArray[np.int64],
    seed: int,
    n_jobs: int,
    progress: Callable[[float], None] | None,
) -> dict[str, Any]:
    """Compute one metric in all its variants."""
    started = time.monotonic()
    record = RECORDS[metric]
    _, n_subspaces, dims = values.shape
    several = record.per_subspace and dims > 1 and n_subspaces >= max(2, record.least_codes)
    variants: tuple[Per, ...] = ("dim", "subspace") if several else ("dim",)
    result: dict[str, Any] = {}
    if record.fit is not None:
        found = record.fit.function(values, factors, seed=seed, n_jobs=n_jobs, progress=progress)
        result[record.fit.matrix] = found.matrix.tolist()
        result["scores"] = {per: record.fit.scores(found, per, dims) for per in variants}
    else:

        def advance(share: float) -> None:
            if progress is not None:
                progress(share / len(variants))

        threads = {"n_jobs": n_jobs, "progress": advance} if record.jobs else {}
        result["scores"] = {}
        for per in variants:
            way = {"per": per} if record.per_subspace else {}
            result["scores"][per] = record.function(values, factors, seed=seed, **way, **threads)
            if not threads:
                advance(1.0)
    return {**result, "seconds": round(time.monotonic() - started, 3)}
