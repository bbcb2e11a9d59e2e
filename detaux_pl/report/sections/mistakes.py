"""Single images: the surest mistakes, and labels that no network confirms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from detaux_pl.report.error_charts import mistakes_sheet
from detaux_pl.report.markup import html_cell, html_chart, html_lead, html_table, shown_of
from detaux_pl.report.section import Charts, Part, Picture, Report, Section, View
from detaux_pl.report.wording import percent, plural, short_name

_PICTURES = 20
"""Mistakes that are shown."""
_SUSPECTS = 40
"""Suspects that are listed."""
_NAME = 40
"""Letters of a class name."""


def _draw(view: View, report: Report) -> Iterator[Picture]:
    if report["errors"] is None:
        return
    shown = report["errors"]["mistakes"][:_PICTURES]
    if shown:
        rows = np.searchsorted(view.codes.ids, [each["id"] for each in shown])
        yield Picture(
            "mistakes", "The surest mistakes", mistakes_sheet(view.images(rows).numpy(), shown)
        )


def _body(report: Report, charts: Charts) -> str:
    errors = report["errors"]
    if errors is None or not errors["n_mistakes"]:
        return ""
    n = errors["n_mistakes"]
    return (
        html_chart(
            charts,
            "mistakes",
            "Test images that are told wrong, with what is said and how surely (calibrated), and "
            f"what the label says.{shown_of(min(n, _PICTURES), n, 'mistakes, the surest')}",
        )
        + "<h3>Labels that no seed confirms</h3>\n"
        + _suspects(errors)
    )


def _suspects(errors: Mapping[str, Any]) -> str:
    suspects, n, seeds = errors["suspects"], errors["n_suspects"], len(errors["seeds"])
    if suspects is None:
        return html_lead(
            "Images that every one of several seeds tells otherwise are suspects of a wrong label; "
            "here is one seed only."
        )
    if not suspects:
        return html_lead("There is none: every label is confirmed by a seed at least.")
    listed = suspects[:_SUSPECTS]
    rows = [
        [
            html_cell(str(each["id"])),
            html_cell(short_name(each["true"], _NAME)),
            html_cell(short_name(each["predicted"], _NAME)),
            html_cell(percent(each["probability"])),
            html_cell(percent(each["label_probability"])),
            html_cell(f"{each['agreeing_seeds']} of {seeds}"),
        ]
        for each in listed
    ]
    head = [
        "image", "label", "told as", "probability", "of the label", "seeds that say so",
    ]  # fmt: skip
    which = "images, the surest; `detaux errors` lists all"
    return (
        html_lead(
            f"{plural(n, 'test image')} that each of the {seeds} seeds tells otherwise than the "
            "label: either they are hard, or the label is wrong. To be looked at, from the top."
            + shown_of(len(listed), n, which)
        )
        + f'<div class="tall">{html_table(head, rows)}</div>\n'
    )


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("mistakes", "Its surest mistakes", _body(report, charts))]


SECTION = Section(
    place=16,
    render=_render,
    draw=_draw,
)
