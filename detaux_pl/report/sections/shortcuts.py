"""The shortcut alarm: discovered groups that go with the label, with pictures of the exceptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.shortcuts import read_shortcuts
from detaux_pl.report.markup import html_cell, html_chart, html_lead, html_table, shown_of
from detaux_pl.report.section import Charts, Part, Picture, Report, Section, View
from detaux_pl.report.sheets import SheetRow, image_sheet
from detaux_pl.report.wording import p_text, short_name

_PICTURED = 8
"""Rare cells of an alarm that are shown."""
_RELATIONS = 20
"""Groupings that are listed."""
_NAME = 40
"""Letters of a class name."""


def describe_shortcuts(run_dir: Path, classes: Sequence[str] | None) -> dict[str, Any]:
    """Read what the run says of shortcuts; None of runs of earlier versions.

    Args:
        run_dir: Folder of the run.
        classes: Names of the classes; None where they are not known.
    """
    found = read_shortcuts(StageFolder(run_dir, "cluster"))
    return {"shortcuts": None if found is None else {**found, "classes": classes}}


def _describe(view: View) -> dict[str, Any]:
    own = view.together.get(view.arms[0])
    return describe_shortcuts(view.run_dir, None if own is None else list(own.classes))


def _class_name(report: Report, label: int) -> str:
    names = report["shortcuts"]["classes"]
    if names is None or label >= len(names) or names[label] == str(label):
        return f"{report['principal']} {label}"
    return short_name(names[label], _NAME)


def _draw(view: View, report: Report) -> Iterator[Picture]:
    found = report["shortcuts"]
    for number, alarm in enumerate(found["alarms"] if found else [], start=1):
        rows = []
        for cell in alarm["cells"][:_PICTURED]:
            images = view.images(np.searchsorted(view.codes.ids, cell["ids"])).numpy()
            title = (
                f"{short_name(_class_name(report, cell['label']), 12)} · cluster {cell['group']}"
            )
            rows.append(SheetRow(title, f"{cell['n']:,} of {cell['of']:,} images", images))
        if rows:
            alt = f"Training images that do not go with the groups of {alarm['name']}"
            yield Picture(f"shortcut{number}", alt, image_sheet(rows))


def _render(report: Report, charts: Charts) -> list[Part]:
    found = report.get("shortcuts")
    if found is None:
        return []
    principal = report["principal"]
    body = ""
    for number, alarm in enumerate(found["alarms"], start=1):
        caption = (
            f"Training images of the rarest cells, of {alarm['rare']:,} that do not go with the "
            f"groups. Whatever these images show that others of their {principal} do not is what a "
            "classifier might go by; if it is nothing, the groups are a blur of the label itself."
        )
        known = ", ".join(f"{name} {nmi:.2f}" for name, nmi in alarm["known"].items())
        alike = f" Much the same: {', '.join(alarm['alike'])}." if alarm["alike"] else ""
        checked = f" Known factors, which raise no alarm, agree by (NMI): {known}." if known else ""
        body += html_lead(alarm["sentence"]) + html_chart(charts, f"shortcut{number}", caption)
        body += html_lead(checked + alike) if checked or alike else ""
    if not found["alarms"]:
        body += html_lead(found["sentence"])
    listed = found["relations"][:_RELATIONS]
    rows = [
        [
            html_cell(each["name"]), html_cell(each["kind"]), html_cell(f"{each['effect']:.2f}"),
            html_cell(p_text(each["p_value"])), html_cell(f"{each['purity']:.2f}"),
            html_cell("" if each["depth"] is None else f"{each['depth']:.2f}"),
        ]
        for each in listed
    ]  # fmt: skip
    head = ["groups", f"relation to {principal}", "Cramér's V", "p", "purity", "depth"]
    body += html_table(head, rows) + html_lead(
        f"V: how far the groups go with {principal}, from 0 to 1. p: by permutation, corrected for "
        "all groupings listed. Purity: share of the images in the commonest class of their group. "
        "Depth: how far inside their group the rare images lie, 1 at its centre, 0 half-way to "
        "another one; below 0.5 they may be there because the label is coded badly."
        + shown_of(len(listed), len(found["relations"]), "groupings, the strongest")
    )
    return [Part("shortcuts", f"What goes with {principal}", body)]


SECTION = Section(
    place=18,
    render=_render,
    describe=_describe,
    draw=_draw,
    without_task=True,
)
