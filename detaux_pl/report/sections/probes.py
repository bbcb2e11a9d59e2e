"""What linear probes find in the codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.evaluation.requirements import requirements
from detaux_pl.evaluation.results import read_probes
from detaux_pl.report.markup import (
    CODE_ROWS,
    html_cell,
    html_lead,
    html_list,
    html_optional,
    html_table,
    shown_of,
)
from detaux_pl.report.section import Charts, Part, Report, Section, View
from detaux_pl.report.wording import points


def _describe(view: View) -> dict[str, Any]:
    """Accuracy of the linear probes, and how far the slices are from what is asked of them."""
    stage = StageFolder(view.run_dir, "evaluate")
    if not stage.complete:
        return {"probes": None, "requirements": None}
    probes = read_probes(view.run_dir)
    asked = {
        name: requirements(entry, probes["chance"]) for name, entry in probes["inputs"].items()
    }
    return {"probes": probes, "requirements": asked}


def _body(report: Report, charts: Charts) -> str:
    probes = report["probes"]
    if probes is None:
        return ""
    n_train, n_test = probes["n_train"], probes["n_test"]
    most = max(len(entry["slices"]) for entry in probes["inputs"].values())
    return (
        html_lead(
            "Test accuracy [%] of linear classifiers (logistic regression) on the frozen codes. A "
            "row is what they are given: all slices together, or one of them; below them the gap "
            "between the best slice and the second best. A column is the factor that they tell. "
            "Chance is the rate of the most frequent value in the test set. "
            f"{n_train:,} train and {n_test:,} test images. What the slices cost all of them "
            "together (R3) is seen beside a run without regularisers: “detaux probes --against”."
            + shown_of(min(CODE_ROWS, most), most, "slices, the best at some factor")
        )
        + _probe_table(probes, report["requirements"])
        + html_list([_asked(name, numbers) for name, numbers in report["requirements"].items()])
    )


def _probe_table(probes: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    tasks = probes["tasks"]

    def cells(label: str, detail: str, accuracies: Mapping[str, float | None]) -> list[str]:
        values = [accuracies[task] for task in tasks]
        return [
            html_cell(label, detail),
            *(html_optional(value, lambda share: f"{100 * share:.1f}") for value in values),
        ]

    rows = []
    for name, entry in probes["inputs"].items():
        rows.append(cells(name, "all slices together", entry["full"]))
        rows += [
            cells(f"{name} · slice {k}", "", entry["slices"][k]) for k in _best_slices(entry, tasks)
        ]
        gaps = asked[name]["gaps"]
        if all(gap is not None for gap in gaps.values()):
            rows.append(cells(f"{name} · gap", "best slice less the second best", gaps))
    rows.append(cells("chance", "", probes["chance"]))
    return html_table(["input", *tasks], rows)


def _best_slices(entry: Mapping[str, Any], tasks: Sequence[str]) -> list[int]:
    """Return the slices in order; where there are many, those that place best at some factor."""
    slices = entry["slices"]
    if len(slices) <= CODE_ROWS:
        return list(range(len(slices)))
    places = [len(slices)] * len(slices)
    for task in tasks:
        ranked = sorted(range(len(slices)), key=lambda k: -slices[k][task])
        for place, k in enumerate(ranked):
            places[k] = min(places[k], place)
    return sorted(range(len(slices)), key=lambda k: places[k])[:CODE_ROWS]


def _asked(name: str, numbers: Mapping[str, Any]) -> str:
    """Say in words how far the slices of an input are from what is asked of them."""
    if numbers["assignment"] is None:
        return f"{name}: there are more factors than slices, so not each has one of its own."
    if numbers["R1"] is None:
        return f"{name}: it has one slice, and no others to compare it with."
    own = ", ".join(f"{task} in slice {k}" for task, k in numbers["assignment"].items())
    trend = {
        None: "",
        True: ", each better at its factor than every other slice (the diagonal trend)",
        False: ", not each better at its factor than every other slice (no diagonal trend)",
    }[numbers["diagonal"]]
    return (
        f"{name}: the factors are told best as {own}{trend}. On average over the factors, the "
        f"other slices are {points(numbers['R1'])} points from chance (R1, ideally 0), and all "
        f"slices together {points(numbers['R2'])} points from the factor's own (R2, ideally 0 or "
        "less)."
    )


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("probes", "Linear probes", _body(report, charts))]


SECTION = Section(
    place=90,
    render=_render,
    describe=_describe,
)
