"""The page of a report: one HTML file that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from detaux_pl.report.markup import html_list, html_text
from detaux_pl.report.section import Charts, Report, Section
from detaux_pl.report.wording import Verdict, percent

_BADGES = {"gain": "Gain", "loss": "Loss", "none": "No gain shown", "open": "Open"}


def render_page(report: Report, charts: Charts, told: Verdict, sections: Sequence[Section]) -> str:
    """Render a report as one self-contained page.

    Args:
        report: What the sections describe.
        charts: Inline SVG of each chart by name; what is missing is left out.
        told: What the page says first.
        sections: What it shows, in order.
    """
    parts = [part for section in sections for part in section.render(report, charts) if part.body]
    room = files(__package__)
    return Template((room / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{report['run']} · detaux report"),
        style=(room / "page.css").read_text(encoding="utf-8").strip(),
        tone=told.tone,
        badge=_BADGES[told.tone],
        run=html_text(report["run"]),
        headline=html_text(told.headline),
        details=html_list(told.details),
        tiles=_tiles(report),
        links="".join(f'<a href="#{each.name}">{html_text(each.title)}</a>' for each in parts),
        sections="\n".join(
            f'<section id="{each.name}"><h2>{html_text(each.title)}</h2>\n{each.body}</section>'
            for each in parts
        ),
        footer=html_text(
            " · ".join(f"{name} {version}" for name, version in report["versions"].items())
        ),
    )


def _tiles(report: Report) -> str:
    """The numbers to take home."""
    if not report["arms"]:
        return ""
    arms, task, baseline = report["arms"], report["auxiliary"], report["baseline"]
    tiles = []
    for name, label in ((report["main"], "accuracy with the task"), (baseline, "accuracy alone")):
        if name is not None and arms[name]["accuracy_mean"] is not None:
            tiles.append((percent(arms[name]["accuracy_mean"]), label))
    tiles.append((str(task["n_clusters"]), f"clusters, {percent(task['noise_fraction'])} noise"))
    tiles.append((f"{task['nmi_principal']:.3f}", f"NMI with {report['principal']}"))
    if (best := task["best_factor"]) is not None:
        tiles.append((f"{task['factors'][best]['nmi']:.2f}", f"NMI with {best}"))
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{html_text(t)}</dt><dd>{html_text(v)}</dd></div>" for v, t in tiles)
        + "</dl>"
    )
