"""Does it help? Accuracy of every arm, tested against the principal task alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.evaluation.errors import score
from detaux_pl.evaluation.results import read_scores
from detaux_pl.evaluation.significance import paired_test, summarise
from detaux_pl.metrics.holm import holm
from detaux_pl.report.charts import arms_chart
from detaux_pl.report.markup import html_cell, html_chart, html_optional, html_table
from detaux_pl.report.section import Charts, Part, Picture, Report, Section, View
from detaux_pl.report.sections.run import _seconds
from detaux_pl.report.style import ACCENT, MUTED, PALETTE
from detaux_pl.report.wording import (
    SHUFFLED,
    accuracy_text,
    missing_text,
    p_text,
    percent,
    points,
    range_text,
)
from detaux_pl.settings.names import arm_folder


def _describe(view: View) -> dict[str, Any]:
    kinds = _kinds(view.arms, view.discoveries, view.codes.info.names)
    arms = _compare_arms(view.run_dir, view.arms, view.baseline, view.seeds, kinds)
    together = view.together
    for name, arm in arms.items():
        other = None if view.baseline in (None, name) else together.get(view.baseline)
        arm["ensemble"] = score(together[name], other) if name in together else None
    return {"arms": arms}


def _kinds(
    arms: Sequence[str], discoveries: Sequence[str], factors: Sequence[str]
) -> dict[str, str]:
    """What each arm is there for."""

    def kind(arm: str) -> str:
        if arm == arms[0]:
            return "main"
        if arm == SHUFFLED:
            return "control"
        if arm in discoveries:
            return "discovery"
        known = arm in factors or set(arm.split("-")) <= set(factors)
        return "ceiling" if known else "baseline"

    return {arm: kind(arm) for arm in arms}


def _compare_arms(
    run_dir: Path,
    arms: Sequence[str],
    baseline: str | None,
    seeds: Sequence[int],
    kinds: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Accuracy of every arm, with its paired test against the baseline."""
    tests = {name: _test_metrics(run_dir, name, seeds) for name in arms}
    result = {}
    for name, runs in tests.items():
        accuracies = [run["test/accuracy/principal"] for run in runs.values()]
        scores = [run["test/f1/principal"] for run in runs.values() if "test/f1/principal" in run]
        auxiliary = [
            value
            for run in runs.values()
            for key, value in run.items()
            if key.startswith("test/accuracy/auxiliary")
        ]
        summary = summarise(accuracies) if accuracies else None
        result[name] = {
            "kind": kinds[name],
            "seeds": list(runs),
            "missing_seeds": [seed for seed in seeds if seed not in runs],
            **_diverged(run_dir, name, seeds),
            "accuracies": accuracies,
            "accuracy_mean": summary.mean if summary else None,
            "accuracy_std": summary.std if summary else None,
            "ci95": [summary.low, summary.high] if summary and summary.n > 1 else None,
            "f1_mean": float(np.mean(scores)) if scores else None,
            "auxiliary_accuracy_mean": float(np.mean(auxiliary)) if auxiliary else None,
            "seconds": _seconds(run_dir / arm_folder(name)).get("multitask", 0.0),
            **_against(runs, {} if baseline in (None, name) else tests[baseline]),
        }
    tested = [name for name, arm in result.items() if arm["p_value"] is not None]
    corrected = dict(zip(tested, holm([result[name]["p_value"] for name in tested]), strict=True))
    for name, arm in result.items():
        arm["p_value_holm"] = corrected.get(name)
    control = _against(tests[arms[0]], tests.get(SHUFFLED, {}))
    result[arms[0]]["p_value_shuffled"] = control["p_value"]
    return result


def _test_metrics(run_dir: Path, arm: str, seeds: Sequence[int]) -> dict[int, dict[str, float]]:
    """Test metrics of the seeds of an arm that finished."""
    stages = {seed: StageFolder(run_dir, f"{arm_folder(arm)}/seed{seed}") for seed in seeds}
    return {seed: read_scores(stage) for seed, stage in stages.items() if stage.complete}


def _diverged(run_dir: Path, arm: str, seeds: Sequence[int]) -> dict[str, list[int]]:
    """Name the seeds of an arm whose training diverged, where there are any."""
    stages = {seed: StageFolder(run_dir, f"multitask/{arm}/seed{seed}") for seed in seeds}
    found = [seed for seed, stage in stages.items() if stage.diverged]
    return {"diverged_seeds": found} if found else {}


def _against(
    runs: Mapping[int, Mapping[str, float]], others: Mapping[int, Mapping[str, float]]
) -> dict[str, Any]:
    """Paired difference in accuracy over the seeds that both have."""
    common = [seed for seed in runs if seed in others]
    if not common:
        return {"difference": None, "difference_ci95": None, "p_value": None}
    ours, theirs = (
        [arm[seed]["test/accuracy/principal"] for seed in common] for arm in (runs, others)
    )
    test = paired_test(ours, theirs)
    gap = test.difference
    return {
        "difference": gap.mean,
        "difference_ci95": [gap.low, gap.high] if gap.n > 1 else None,
        "p_value": test.p_value,
    }


def _draw(view: View, report: Report) -> Iterator[Picture]:
    arms = report["arms"]
    if any(arm["accuracies"] for arm in arms.values()):
        runs = {
            name: dict(zip(arm["seeds"], arm["accuracies"], strict=True))
            for name, arm in arms.items()
        }
        yield Picture(
            "arms", "Test accuracy of every arm, by seed", arms_chart(runs, arm_colours(arms))
        )


def arm_colours(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The main arm blue, controls grey, all others a hue of their own."""
    others = iter(PALETTE[1:] * (1 + len(arms) // 9))
    fixed = {"main": ACCENT, "control": MUTED}
    return {name: fixed.get(arm["kind"]) or next(others) for name, arm in arms.items()}


def _body(report: Report, charts: Charts) -> str:
    baseline = report["baseline"]
    kinds = {
        "main": "with the discovered task" if baseline is not None else "",
        "baseline": "baseline",
        "control": "control: labels dealt out at random",
        "ceiling": "ceiling: the true factor",
        "discovery": "another discovery",
    }
    versus = [f"vs {baseline} [points]", "p"] if baseline is not None else []
    rows, marks = [], []
    for name, arm in report["arms"].items():
        kind = "principal task alone" if name == baseline else kinds[arm["kind"]]
        cells = [
            html_cell(name, kind),
            html_cell(accuracy_text(arm)),
            html_optional(arm["f1_mean"], percent),
            html_optional(arm["auxiliary_accuracy_mean"], percent),
        ]
        if baseline is not None:
            interval = arm["difference_ci95"]
            around = "" if interval is None else " to ".join(points(end) for end in interval)
            gap = arm["difference"]
            cells.append(html_cell("" if gap is None else points(gap), around))
            p, corrected = arm["p_value"], arm["p_value_holm"]
            holm = "" if corrected is None else f"Holm {p_text(corrected)}"
            cells.append(html_cell("" if p is None else p_text(p), holm))
        missing = missing_text(arm)
        cells.append(html_cell(str(len(arm["seeds"])), f"without {missing}" if missing else ""))
        rows.append(cells)
        marks.append(name == report["main"])
        if arm["ensemble"] is not None and len(arm["ensemble"]["seeds"]) > 1:
            rows.append(_ensemble_cells(name, arm["ensemble"], baseline))
            marks.append(False)
    head = ["arm", "accuracy ± 95 % CI", "macro-F1", "aux. accuracy", *versus, "seeds"]
    return html_table(head, rows, marks) + html_chart(
        charts,
        "arms",
        "A dot is a seed, a diamond the mean, a bar its 95 % interval (Student t). Thin lines join "
        "the runs of one seed: differences and their t-tests are paired by seed. Holm corrects p "
        "for the number of arms. All seeds together answer by the mean of their probabilities; "
        "the interval is over the test images (bootstrap), as is that of their difference.",
    )


def _ensemble_cells(name: str, numbers: Mapping[str, Any], baseline: str | None) -> list[str]:
    """The row of all seeds of an arm together."""
    cells = [
        html_cell(f"{name} · all seeds together", "mean of their probabilities"),
        html_cell(percent(numbers["accuracy"]), range_text(*numbers["ci95"])),
        html_cell(percent(numbers["f1"])),
        html_cell(""),
    ]
    if baseline is not None:
        gap, interval = numbers["difference"], numbers["difference_ci95"]
        around = "" if interval is None else " to ".join(points(end) for end in interval)
        cells += [html_cell("" if gap is None else points(gap), around), html_cell("")]
    return [*cells, html_cell(str(len(numbers["seeds"])))]


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("arms", "Does it help?", _body(report, charts))]


SECTION = Section(
    place=10,
    render=_render,
    describe=_describe,
    draw=_draw,
)
