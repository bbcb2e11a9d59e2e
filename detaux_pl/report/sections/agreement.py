"""What the clusters mean: their agreement with the known factors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.cluster.discover import FITTED
from detaux_pl.cluster.further import erase_task
from detaux_pl.metrics.agreement import contingency
from detaux_pl.report.charts import contingency_chart, project, scatter_chart
from detaux_pl.report.markup import html_bar, html_cell, html_chart, html_lead, html_table
from detaux_pl.report.section import Charts, Part, Picture, Report, Section, View
from detaux_pl.report.style import class_colours
from detaux_pl.report.task import described, is_noise, task_suffix
from detaux_pl.report.wording import p_text, short_name

_SCATTER_POINTS = 1000
_NAME = 12
"""Letters of the name of a value that are shown."""


def _draw(view: View, report: Report) -> Iterator[Picture]:
    for number, (task, labels) in enumerate(zip(described(report), view.tasks, strict=True), 1):
        own = task.get("codes", "disentangle/codes")
        codes = view.codes if own == "disentangle/codes" else Codes.load(view.run_dir / own)
        suffix = task_suffix(number)
        yield Picture(
            f"contingency{suffix}",
            "Clusters against known factors",
            _draw_contingency(task, codes, labels),
        )
        if "subspace" in task:
            yield Picture(
                f"codes{suffix}",
                "Codes of the chosen subspace on their two principal components",
                _draw_codes(task, _without(codes, view.tasks[: task.get("erased", 0)]), labels),
            )


def _draw_contingency(task: Mapping[str, Any], codes: Codes, labels: AuxiliaryLabels) -> Figure:
    rows = np.flatnonzero((labels.splits == 0) & (labels.labels != IGNORED))
    tables, columns = {}, {}
    for name in filter(None, (codes.info.principal, task["best_factor"])):
        columns[name] = [short_name(value, _NAME) for value in codes.info.names_of(name)]
        tables[name] = contingency(
            labels.labels[rows], codes.factor(name)[rows], (labels.n_classes, len(columns[name]))
        )
    # Rows in the order of their main value make the diagonal of a good agreement visible.
    leading = list(tables.values())[-1].argmax(axis=1)
    order = sorted(
        range(labels.n_classes), key=lambda k: (is_noise(task["clusters"][k]), leading[k])
    )
    names = [task["clusters"][label]["name"] for label in order]
    return contingency_chart({k: table[order] for k, table in tables.items()}, names, columns)


def _without(codes: Codes, before: Sequence[AuxiliaryLabels]) -> Codes:
    """Erase what had been found before, as the task was looked for in what is left."""
    fitted = np.flatnonzero(np.isin(codes.splits, FITTED))
    for task in before:
        codes = erase_task(codes, task, fitted, task.meta.get("pca"))
    return codes


def _draw_codes(task: Mapping[str, Any], codes: Codes, labels: AuxiliaryLabels) -> Figure:
    train = codes.rows("train")
    values = codes.values[train, task["subspace"]]
    shown = np.random.default_rng(0).permutation(len(train))[:_SCATTER_POINTS]
    panels = {
        "by cluster": (
            labels.labels[train[shown]],
            [cluster["name"].removeprefix("cluster ") for cluster in task["clusters"]],
        )
    }
    hues = [class_colours(labels.n_classes, task.get("noise_class"))]
    for name in filter(None, (codes.info.principal, task["best_factor"])):
        named = [short_name(value, _NAME) for value in codes.info.names_of(name)]
        panels[f"by {name}"] = (codes.factor(name)[train[shown]], named)
        hues.append(class_colours(len(named)))
    return scatter_chart(project(values)[shown], panels, hues)


def _render(report: Report, charts: Charts) -> list[Part]:
    body = render_agreement(report["auxiliary"], report["principal"], charts)
    return [Part("agreement", "What the clusters mean", body)]


def render_agreement(
    task: Mapping[str, Any], principal: str, charts: Charts, suffix: str = ""
) -> str:
    """Table what a task has in common with each known factor."""
    rows, marks = [], []
    for name, values in task["factors"].items():
        rows.append(
            [
                html_cell(name, "principal" if name == principal else ""),
                *(html_bar(values[key]) for key in ("nmi", "ami", "homogeneity", "completeness")),
                html_cell(f"{values['chi2']:.0f}", f"{values['dof']:.0f} degrees of freedom"),
                html_cell(p_text(values["p_value"])),
                html_bar(values["cramers_v"]),
            ]
        )
        marks.append(name == task["best_factor"])
    head = [
        "factor", "NMI", "AMI", "homogeneity", "completeness", "χ²", "p", "Cramér's V",
    ]  # fmt: skip
    return (
        html_lead("Agreement of the discovered labels with the known factors, on the train split.")
        + html_table(head, rows, marks)
        + html_lead(
            "The null hypothesis of the chi-square test is independence: p near 0 says that labels "
            "and factor depend on each other, however weakly. How strongly, say NMI and Cramér's V."
        )
        + html_chart(
            charts,
            f"contingency{suffix}",
            "Share of the members of each cluster with each value [%].",
        )
        + html_chart(
            charts,
            f"codes{suffix}",
            "Codes of the chosen subspace on their two principal components (train split). A task "
            "of its own groups by cluster and mixes the principal classes.",
        )
    )


SECTION = Section(
    place=40,
    render=_render,
    draw=_draw,
)
