"""Further discovered tasks, each with a heading of its own."""

from __future__ import annotations

from detaux_pl.report.section import Charts, Part, Report, Section
from detaux_pl.report.sections.agreement import render_agreement
from detaux_pl.report.sections.task import render_task
from detaux_pl.report.task import task_suffix


def _render(report: Report, charts: Charts) -> list[Part]:
    parts = []
    for number, task in enumerate(report["further_tasks"], start=2):
        suffix = task_suffix(number)
        body = render_task(task, charts, suffix)
        body += render_agreement(task, report["principal"], charts, suffix)
        parts.append(Part(f"task{number}", f"Discovered task {number}", body))
    return parts


SECTION = Section(
    place=50,
    render=_render,
)
