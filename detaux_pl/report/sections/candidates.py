"""How the task was chosen: every candidate, and what was found of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.tried import read_candidates
from detaux_pl.report.markup import html_bar, html_cell, html_lead, html_optional, html_table
from detaux_pl.report.section import Charts, Part, Report, Section, View
from detaux_pl.report.wording import p_clause, p_text, points


def _describe(view: View) -> dict[str, Any]:
    return {"candidates": read_candidates(StageFolder(view.run_dir, "cluster"))}


def _body(report: Report, charts: Charts) -> str:
    found = report["candidates"]
    if found is None:
        return ""
    alone = all(each["restarts"] is None for each in found["candidates"])
    related = any(each.get("relation") for each in found["candidates"])  # not of earlier versions
    rows, marks = [], []
    for each in found["candidates"]:
        best = each["name"] in found["verdict"]["chosen"]
        rows.append(
            [
                html_cell(each["name"], _outcome(each, best, found["verdict"]["found"])),
                html_cell(str(each["n_classes"]), f"balance {each['balance']:.2f}"),
                html_bar(each["ami_principal"]),
                *([_relation(each)] if related else []),
                html_bar(each["stability"]),
                *([] if alone else [_optional_bar(each["restarts"])]),
                _optional_bar(each["learnability"]),
                html_optional(each["gain"], points),
            ]
        )
        marks.append(best)
    head = [
        "candidate", "classes", f"AMI with {report['principal']}",
        *([f"relation to {report['principal']}"] if related else []), "stability",
        *([] if alone else ["in other restarts"]), "learnability", "gain [points]",
    ]  # fmt: skip
    told = html_lead(found["verdict"]["sentence"]) if found["verdict"]["found"] else ""
    return (
        told
        + html_table(head, rows, marks)
        + html_lead(
            "Judged on training images alone, without knowing a hidden factor. Stability: AMI "
            "with what the clusterer finds in random halves. Learnability: what nets tell of the "
            "labels of images they never saw, from 0 (chance) to 1. Gain: what learning it too "
            "adds to their accuracy of the principal task on such images. The sentence above "
            "rests on other folds of the same images."
        )
        + _uses(found.get("uses", []))
    )


def _uses(judged: Sequence[Mapping[str, Any]]) -> str:
    """What the groups are good for; runs that did not ask, or of earlier versions, have nothing."""
    if not judged:
        return ""
    rows, marks = [], []
    for each in judged:
        for use, worth in each["uses"].items():
            rows.append(
                [
                    html_cell(each["name"]), html_cell(use),
                    html_bar(worth["accuracy"]), html_bar(worth["balanced"]),
                    html_bar(worth["worst"]),
                    html_cell("" if worth["p_value"] is None else points(worth["gain"])),
                    html_optional(worth["p_value"], p_text),
                ]
            )  # fmt: skip
            marks.append(use == each["use"])
    head = ["groups", "use", "accuracy", "cells alike", "worst cell", "gain [points]", "p"]
    return (
        "<h3>What the groups are good for</h3>\n"
        + html_table(head, rows, marks)
        + html_lead(
            "Of nets that leave the groups alone, learn them too, or are trained on as many images "
            "of each cell, a class in a group; on images that they never saw. Cells alike: every "
            "cell weighs the same, which is what the gain is of. The marked use is advised: the "
            "best one, if p is below 0.1 (corrected for the number of uses), else to leave them."
        )
    )


def _outcome(candidate: Mapping[str, Any], best: bool, found: bool) -> str:
    if best:
        return "chosen" if found else "the best one"
    refused: str | None = candidate["refused"]
    return refused or ("not tried" if candidate["gain"] is None else "tried")


def _relation(candidate: Mapping[str, Any]) -> str:
    effect, p = candidate["effect"], candidate["p_value"]
    detail = "" if effect is None else f"V {effect:.2f}, {p_clause(p)}"
    return html_cell(candidate["relation"] or "", detail)


def _optional_bar(value: float | None) -> str:
    return html_cell("") if value is None else html_bar(value)


def _render(report: Report, charts: Charts) -> list[Part]:
    return [
        Part(
            "candidates",
            "How it was chosen" if report["arms"] else "What was tried",
            _body(report, charts),
        )
    ]


SECTION = Section(
    place=30,
    render=_render,
    describe=_describe,
    without_task=True,
)
