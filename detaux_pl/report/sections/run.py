"""The run: time of its stages, and its settings."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from detaux_pl.artifacts.files import read_text
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.report.markup import html_bar, html_cell, html_table
from detaux_pl.report.section import Charts, Part, Report, Section, View


def _describe(view: View) -> dict[str, Any]:
    return describe_run(view.run_dir)


def describe_run(run_dir: Path) -> dict[str, Any]:
    """Time, versions and settings of a run."""
    config = run_dir / "config.yaml"
    manifest = StageFolder(run_dir, "disentangle").manifest
    return {
        "seconds": _seconds(run_dir),
        "versions": {} if manifest is None else manifest["versions"],
        # Nothing where its stages were run one by one.
        "config": read_text(config) if config.is_file() else "",
    }


def _seconds(folder: Path) -> dict[str, float]:
    """Time of each stage; arms and seeds together, and further discoveries with the main [s]."""
    seconds: dict[str, float] = {}
    for path in sorted(folder.rglob("stage.json")):
        manifest = StageFolder(path.parent, "").manifest
        if manifest is None:
            continue
        parts = manifest["stage"].split("/")
        name = parts[2 if parts[0] == "discoveries" and len(parts) > 2 else 0]
        name += "/codes" if parts[-1] == "codes" else ""
        if name != "report":
            seconds[name] = round(seconds.get(name, 0.0) + manifest["seconds"], 2)
    order = ("disentangle", "disentangle/codes", "evaluate", "cluster", "refine", "multitask")
    return dict(sorted(seconds.items(), key=lambda item: [*order, item[0]].index(item[0])))


def _body(report: Report, charts: Charts) -> str:
    seconds, config = report["seconds"], report["config"]
    longest = max(seconds.values(), default=0.0) or 1.0
    total = sum(seconds.values())
    rows = [
        [html_cell(name), html_bar(value / longest, f"{value:,.1f} s")]
        for name, value in seconds.items()
    ]
    rows.append([html_cell("total"), html_cell(f"{total:,.1f} s")])
    table = html_table(["stage", "time"], rows)
    if not config:
        return table
    summary = "<summary>Resolved configuration</summary>"
    return f"{table}<details>{summary}<pre>{escape(config)}</pre></details>"


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("run", "The run", _body(report, charts))]


SECTION = Section(
    place=110,
    render=_render,
    describe=_describe,
    without_task=True,
)
