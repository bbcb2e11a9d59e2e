"""For whom it fails: the worst class and group of every arm, and each cell of the main one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.shortcuts import read_shortcut_groups
from detaux_pl.evaluation.groups import (
    describe_groups,
    find_refitted,
    group_sheet,
    members,
    name_groups,
)
from detaux_pl.report.markup import (
    html_bar,
    html_cell,
    html_chart,
    html_lead,
    html_optional,
    html_table,
    shown_of,
)
from detaux_pl.report.section import Charts, Part, Picture, Report, Section, View
from detaux_pl.report.sheets import SheetRow, image_sheet
from detaux_pl.report.wording import percent, plural, points, short_name

_CELLS = 60
"""Cells of the main arm that are listed."""
_PICTURED = 12
"""Failing cells that are shown."""
_IMAGES = 10
"""Images of each."""
_NAME = 40
"""Letters of a class name."""


def _describe(view: View) -> dict[str, Any]:
    both = [arm for arm in view.arms if arm in view.together and arm in view.held_out]
    if not both or not view.tasks:
        return {"groups": None}
    principal = view.codes.factor(view.codes.info.principal)
    name, task = next(iter(_groups(view).items()))
    arms, refitted = {}, find_refitted(view.run_dir, both)
    for arm in both:
        own = view.held_out[arm], view.together[arm]
        try:
            sheet = group_sheet(*own, task, principal)
        except UserError as nothing:
            return {"groups": {"of": name, "arms": {}, "why_not": str(nothing)}}
        arms[arm] = {**describe_groups(sheet), "refitted": arm in refitted}
    return {"groups": {"of": name, "arms": arms, "why_not": None}}


def _groups(view: View) -> dict[str, AuxiliaryLabels]:
    shortcuts = read_shortcut_groups(StageFolder(view.run_dir, "cluster"))
    return name_groups(shortcuts, view.tasks)


def _draw(view: View, report: Report) -> Iterator[Picture]:
    arm, groups = view.arms[0], report["groups"]
    if groups is None or arm not in groups["arms"]:
        return
    test, task = view.together[arm], _groups(view)[groups["of"]]
    rows = []
    for cell in _pictured(groups["arms"][arm]):
        ids = test.ids[members(test, task, cell)[:_IMAGES]]
        images = view.images(np.searchsorted(view.codes.ids, ids)).numpy()
        right = f"{percent(cell['test_accuracy'])} of {cell['test_images']:,} right"
        rows.append(SheetRow(f"{short_name(cell['class'], 12)} · {cell['group']}", right, images))
    if rows:
        yield Picture("groups", "Test images of the groups it fails in", image_sheet(rows))


def _pictured(arm: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the cells to be shown: those that fail, or else the worst one."""
    failing = [cell for cell in arm["cells"] if cell["failing"]][:_PICTURED]
    return failing or ([arm["worst"]] if arm["worst"] is not None else [])


def _body(report: Report, charts: Charts) -> str:
    groups = report["groups"]
    if groups is None:
        return ""
    if groups["why_not"] is not None:
        return html_lead(f"No sheet: {groups['why_not']}")
    caption = (
        "Test images of the main arm in each class and group that is told worse than all images, "
        "on validation images and again on test images; where none is, of the worst one. Mistakes "
        "come first."
    )
    main = groups["arms"].get(report["main"])
    told = html_lead(
        f"Accuracy of each class in each discovered group [%] ({groups['of']}; `detaux groups "
        "--groups` has others), all seeds together, in small print "
        "the 95 % interval (Wilson). The worst one is chosen by validation images, as the one "
        "whose interval ends lowest, and told of test images, which had no say: its interval there "
        "needs no correction for having been the worst. Gap: to the accuracy of all, in points."
    )
    return (
        told + _arms(groups["arms"], report["main"]) + html_chart(charts, "groups", caption)
        + ("" if main is None else _cells(main))
    )  # fmt: skip


def _arms(arms: Mapping[str, Any], main: str) -> str:
    rows = []
    for name, arm in arms.items():
        worst = arm["worst"]
        seen = "fitted to validation images" if arm.get("refitted") else ""
        cells = [html_cell(name, seen), html_cell(percent(arm["accuracy"]["test"]))]
        if worst is None:
            cells += [html_cell("none has images in both splits"), *[html_cell("")] * 3]
        else:
            cells += [html_cell(f"{short_name(worst['class'], _NAME)} · {worst['group']}")]
            cells += [_share(worst, "val"), _share(worst, "test"), _gap(worst)]
        rows.append([*cells, html_cell(f"{arm['n_failing']} of {arm['n_cells']:,}")])
    head = ["arm", "all", "worst", "on validation", "on test", "gap", "told worse than all"]
    return html_table(head, rows, [name == main for name in arms])


def _cells(arm: Mapping[str, Any]) -> str:
    listed = arm["cells"][:_CELLS]
    rows = [
        [
            html_cell(short_name(cell["class"], _NAME)), html_cell(cell["group"]),
            html_optional(cell["train_images"], "{:,}".format), _share(cell, "val"),
            _share(cell, "test"), _gap(cell), html_cell("fails" if cell["failing"] else ""),
        ]
        for cell in listed
    ]  # fmt: skip
    which = "cells, the lowest; `detaux groups` lists all"
    without = ""
    if arm["n_without_val"]:
        without = (
            f" {plural(arm['n_without_val'], 'cell')} without a validation image can be neither "
            "the worst nor called failing."
        )
    head = ["class", "group", "in train", "validation", "test", "gap", ""]
    return (
        "<h3>Each class in each group, the main arm</h3>\n"
        + html_lead(f"Lowest first.{without}{shown_of(len(listed), arm['n_cells'], which)}")
        + f'<div class="tall">{html_table(head, rows)}</div>\n'
    )


def _share(cell: Mapping[str, Any], part: str) -> str:
    n, value = cell[f"{part}_images"], cell[f"{part}_accuracy"]
    if value is None:
        return html_cell("", "no image")
    ends = f"{100 * cell[f'{part}_low']:.0f} to {100 * cell[f'{part}_high']:.0f}, n = {n:,}"
    return html_bar(value, f"{100 * value:.1f}", ends)


def _gap(cell: Mapping[str, Any]) -> str:
    return html_optional(cell["test_gap"], points)


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("groups", "For whom it fails", _body(report, charts))]


SECTION = Section(
    place=13,
    render=_render,
    describe=_describe,
    draw=_draw,
)
