"""Other ways to auxiliary labels."""

from __future__ import annotations

from typing import Any

from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.shortcuts import read_shortcuts
from detaux_pl.report.markup import html_bar, html_cell, html_lead, html_list, html_table
from detaux_pl.report.section import Charts, Part, Report, Section, View
from detaux_pl.report.task import describe_task, read_tasks
from detaux_pl.report.wording import percent
from detaux_pl.settings.names import discovery_folder, discovery_folders


def _describe(view: View) -> dict[str, Any]:
    tasks = {name: read_tasks(view.run_dir, view.codes, name, name) for name in view.discoveries}
    alarms = {
        name: read_shortcuts(StageFolder(view.run_dir, discovery_folder("cluster", name)))
        for name in discovery_folders(view.run_dir)
    }
    return {
        "discoveries": {
            name: [describe_task(view.codes, labels) for labels in found]
            for name, found in tasks.items()
        },
        "discovery_alarms": {
            name: [alarm["sentence"] for alarm in found["alarms"]]
            for name, found in alarms.items()
            if found is not None
        },
    }


def _body(report: Report, charts: Charts) -> str:
    rows = []
    for name, tasks in report["discoveries"].items():
        for number, task in enumerate(tasks, start=1):
            best = task["best_factor"]
            rows.append(
                [
                    html_cell(name, f"task {number}" if len(tasks) > 1 else ""),
                    html_cell(task["clusterer"]["class"], f"subspace {task['subspace']}"),
                    html_cell(str(task["n_clusters"])),
                    html_cell(percent(task["noise_fraction"])),
                    html_bar(task["nmi_principal"]),
                    html_cell("")
                    if best is None
                    else html_cell(f"{task['factors'][best]['nmi']:.2f}", best),
                ]
            )
    alarms = report.get("discovery_alarms", {}).items()  # not of earlier versions
    told = html_list([f"{name}: {each}" for name, sentences in alarms for each in sentences])
    if not rows:
        return told
    head = ["discovery", "clusterer", "clusters", "noise"]
    head += [f"NMI with {report['principal']}", "best NMI with a hidden factor"]
    lead = html_lead("Other ways to auxiliary labels, on the train split.")
    return lead + html_table(head, rows) + told


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("discoveries", "Other discoveries", _body(report, charts))]


SECTION = Section(
    place=60,
    render=_render,
    describe=_describe,
)
