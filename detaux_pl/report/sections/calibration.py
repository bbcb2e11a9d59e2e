"""How sure it is: whether probabilities are what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detaux_pl.report.error_charts import reliability_chart
from detaux_pl.report.markup import html_cell, html_chart, html_lead, html_table
from detaux_pl.report.section import Charts, Part, Picture, Report, Section, View


def _draw(view: View, report: Report) -> Iterator[Picture]:
    errors = report["errors"]
    if errors is None:
        return
    numbers = report["arms"][errors["arm"]]["ensemble"]
    panels = {
        f"{'after' if calibrated else 'before'} the temperature · ECE {numbers[key]:.3f}": [
            each for each in errors["reliability"] if each["calibrated"] is calibrated
        ]
        for calibrated, key in ((False, "ece"), (True, "ece_calibrated"))
    }
    yield Picture(
        "reliability", "Accuracy of predictions by their probability", reliability_chart(panels)
    )


def _body(report: Report, charts: Charts) -> str:
    if report["errors"] is None:
        return ""
    arms = {name: arm["ensemble"] for name, arm in report["arms"].items() if arm["ensemble"]}
    rows = [[html_cell(name, _seeds(numbers)), *_cells(numbers)] for name, numbers in arms.items()]
    return (
        html_lead(
            "A probability of 80 % should be right eight times of ten. The expected calibration "
            "error (ECE) is the mean distance from that, over 15 bins. One temperature, fitted on "
            "the validation images, makes all probabilities flatter (above 1) or sharper (below "
            "1): those of “detaux predict” are made so. It changes no class."
        )
        + html_table(
            ["arm", "ECE", "with the temperature", "temperature"],
            rows,
            [name == report["main"] for name in arms],
        )
        + html_chart(
            charts,
            "reliability",
            f"Test images of {report['errors']['arm']} by how sure it is: a dot is a bin, its size "
            "the number of images, the thin line the 95 % interval of its accuracy (Wilson), the "
            "thick one the distance from what it should be.",
        )
    )


def _seeds(numbers: Mapping[str, Any]) -> str:
    n = len(numbers["seeds"])
    return f"{n} seeds together" if n > 1 else "one seed"


def _cells(numbers: Mapping[str, Any]) -> list[str]:
    return [
        html_cell(f"{numbers['ece']:.3f}"),
        html_cell(f"{numbers['ece_calibrated']:.3f}"),
        html_cell(f"{numbers['temperature']:.3g}"),
    ]


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("calibration", "How sure it is", _body(report, charts))]


SECTION = Section(
    place=14,
    render=_render,
    draw=_draw,
)
