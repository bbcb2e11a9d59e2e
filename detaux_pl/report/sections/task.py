"""The discovered tasks: what was found, and images of every cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.metrics.agreement import agreement
from detaux_pl.report.markup import html_chart, html_lead
from detaux_pl.report.section import Charts, Images, Part, Picture, Report, Section, View
from detaux_pl.report.sheets import SheetRow, image_sheet
from detaux_pl.report.style import class_colours
from detaux_pl.report.task import (
    SHEET_ROWS,
    describe_task,
    described,
    is_noise,
    leading_text,
    task_suffix,
)
from detaux_pl.report.wording import percent, plural

_SHEET_COLUMNS = 10


def _describe(view: View) -> dict[str, Any]:
    first, *further = (describe_task(view.codes, labels) for labels in view.tasks)
    train = view.codes.rows("train")
    every = [task.labels[train] for task in view.tasks]
    for n, task in enumerate(further, start=1):
        both = [(every[n] != IGNORED) & (labels != IGNORED) for labels in every[:n]]
        task["ami_before"] = [
            agreement(labels[rows], every[n][rows])["ami"] if rows.any() else 0.0
            for labels, rows in zip(every, both, strict=False)
        ]
    return {"auxiliary": first, "further_tasks": further}


def _draw(view: View, report: Report) -> Iterator[Picture]:
    for number, (task, labels) in enumerate(zip(described(report), view.tasks, strict=True), 1):
        yield Picture(
            f"clusters{task_suffix(number)}",
            "Images of every cluster",
            _draw_clusters(task, labels, view.images),
        )


def _draw_clusters(task: Mapping[str, Any], labels: AuxiliaryLabels, images: Images) -> Figure:
    colours = class_colours(labels.n_classes, task.get("noise_class"))
    shown = sorted(task["clusters"][:SHEET_ROWS], key=is_noise)
    members = []
    for cluster in shown:
        rows = np.flatnonzero((labels.labels == cluster["label"]) & (labels.splits == 0))
        strongest = np.argsort(-labels.strength[rows], kind="stable")
        members.append(rows[strongest[:_SHEET_COLUMNS]])
    every = images(np.concatenate(members)).numpy()
    parts = np.split(every, np.cumsum([len(rows) for rows in members])[:-1])
    sheet = []
    for cluster, part in zip(shown, parts, strict=True):
        detail = f"{plural(cluster['size'], 'image')} · {percent(cluster['share'], 0)}"
        if "leading" in cluster:
            leading = cluster["leading"]
            detail += f"\n{leading_text(leading, 12)}: {percent(leading['share'], 0)}"
        sheet.append(SheetRow(cluster["name"], detail, part, colours[cluster["label"]]))
    return image_sheet(sheet)


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("task", "The discovered task", render_task(report["auxiliary"], charts))]


def render_task(task: Mapping[str, Any], charts: Charts, suffix: str = "") -> str:
    """Say what was found, how, and what became of the samples in no cluster."""
    noise = ", ".join(
        f"{split} {percent(share)}" for split, share in task["noise_fractions"].items()
    )
    policy = {
        "own_class": "a class of their own",
        "drop": "left out of the auxiliary loss",
        "nearest": "given to the nearest cluster",
    }
    lead = f"{plural(task['n_clusters'], 'cluster')}"
    if "subspace" in task:
        lead += f" in subspace {task['subspace']}"
    if erased := task.get("erased"):
        were = "was" if erased == 1 else "were"
        lead += f", from which {plural(erased, 'task')} found before {were} erased"
    if "clusterer" in task:
        settings = dict(task["clusterer"])
        kind = settings.pop("class", "")
        given = ", ".join(f"{k}={v}" for k, v in settings.items() if v is not None)
        lead += f", found by {kind}({given})"
    if before := task.get("ami_before"):
        lead += f". AMI with what was found before: {', '.join(f'{ami:.2f}' for ami in before)}"
    lead += f". Samples in no cluster: {noise}"
    if task.get("noise") in policy and "refinement" not in task:
        lead += f"; they are {policy[task['noise']]}"
    if refinement := task.get("refinement"):
        rounds = refinement["rounds"]
        moved = ", then ".join(percent(each["moved"]) for each in rounds)
        lead += (
            f". Refined by nets that never saw the image's own label, in "
            f"{plural(len(rounds), 'round')}: {moved} of the labels changed"
        )
        if rounds[0]["labelled"]:
            lead += f", {percent(rounds[0]['labelled'])} of the images got their first"
        vanished = task["refinement"]["n_classes_before"] - task["n_clusters"]
        if vanished:
            lead += f", {plural(vanished, 'cluster')} vanished"
    shown = f"the first {SHEET_ROWS} classes" if task["n_classes"] > SHEET_ROWS else "every class"
    return html_lead(f"{lead}.") + html_chart(
        charts,
        f"clusters{suffix}",
        f"The strongest members of {shown} in the train split, as the models see them.",
    )


SECTION = Section(
    place=20,
    render=_render,
    describe=_describe,
    draw=_draw,
)
