"""The page of a sweep: one HTML file that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from importlib.resources import files
from string import Template

from detaux_pl.artifacts.terminal import duration
from detaux_pl.report.markup import html_cell, html_lead, html_list, html_table, html_text
from detaux_pl.report.style import to_svg
from detaux_pl.report.sweep_figures import Line, sweep_chart
from detaux_pl.report.sweep_table import (
    SEED,
    Group,
    Outcome,
    SweepTable,
    cells,
    head,
    notes,
    number_text,
    remarks,
    spread_text,
    value_text,
)
from detaux_pl.report.wording import plural

_FEW = 8
"""Values of a parameter that tell lines of a chart from each other, at most."""
_PANELS = 30
"""Results that are drawn, at most."""
_STYLE = """
td.best { font-weight: 700; color: var(--accent); }
#table td:nth-child(-n+%d), #table th:nth-child(-n+%d) { text-align: left; }
#failed td, #failed th { text-align: left; }
#failed td:last-child { white-space: normal; overflow-wrap: anywhere; }
#trials td:nth-child(-n+3), #trials th:nth-child(-n+3) { text-align: left; }
"""
"""Beside the style of the report; the parameters, to the left, are as many as are put in."""


def render_sweep(table: SweepTable, name: str, command: str) -> str:
    """Render a sweep as one self-contained page, for the folder of the sweep.

    Args:
        table: The trials.
        name: Name of the sweep.
        command: The command that made the page.
    """
    states = [each.state for each in table.outcomes]
    failed, left = states.count("failed"), states.count("unfinished")
    tone, badge = ("open", "Unfinished") if left else ("gain", "Finished")
    if failed:
        tone, badge = "loss", f"{failed} failed"
    sections = {
        "table": ("What comes out best?", _table_section(table)),
        **_curve_sections(table),
        "failed": ("Failed trials", _failed_section(table)),
        "trials": ("Every trial", _trials_section(table, command)),
    }
    shown = {key: part for key, part in sections.items() if part[1]}
    room = files(__package__)
    template = (room / "page.html").read_text(encoding="utf-8")
    return Template(template.replace("detaux report", "detaux sweep")).substitute(
        title=escape(f"{name} · detaux sweep"),
        style=(room / "page.css").read_text(encoding="utf-8").strip()
        + _STYLE.replace("%d", str(len(table.varied))).rstrip(),
        tone=tone,
        badge=badge,
        run=html_text(name),
        headline=html_text(_headline(table)),
        details=html_list(_details(table)),
        tiles=_tiles(table),
        links="".join(
            f'<a href="#{key}">{html_text(title)}</a>' for key, (title, _) in shown.items()
        ),
        sections="\n".join(
            f'<section id="{key}"><h2>{html_text(title)}</h2>\n{body}</section>'
            for key, (title, body) in shown.items()
        ),
        footer=html_text(f"detaux_pl {version('detaux_pl')}"),
    )


def _headline(table: SweepTable) -> str:
    """Say who is best at what the table shows first."""
    for column in table.columns:
        best = sorted(table.best[column])
        if best:
            group = table.groups[best[0]]
            mean = number_text(group.cells[column].mean)
            title = table.titles[column]
            also = f" (and {plural(len(best) - 1, 'other')})" if len(best) > 1 else ""
            return f"Best {title.removesuffix(' ↓')}: {mean} with {_named(table, group)}{also}."
    n = sum(group.n for group in table.groups)
    return f"{plural(n, 'finished trial')}, no contest between settings."


def _named(table: SweepTable, group: Group) -> str:
    names = table.names
    return " and ".join(f"{names[n]} {value_text(group.parameters[n])}" for n in table.varied)


def _details(table: SweepTable) -> list[str]:
    wins: dict[int, list[str]] = {}
    for column, best in table.best.items():
        for number in best:
            wins.setdefault(number, []).append(table.titles[column])
    order = sorted(wins, key=lambda number: (-len(wins[number]), number))
    found = [
        f"{_named(table, table.groups[number])} is best in {_listed(wins[number])}."
        for number in order[:3]
    ]
    unfinished = sum(each.state == "unfinished" for each in table.outcomes)
    if unfinished:
        found.append(f"{plural(unfinished, 'trial')} not finished: the same command goes on.")
    return found


def _listed(names: Sequence[str]) -> str:
    short = [name.removesuffix(" ↓") for name in names]
    return short[0] if len(short) == 1 else f"{', '.join(short[:-1])} and {short[-1]}"


def _tiles(table: SweepTable) -> str:
    """The size of the sweep."""
    n = sum(each.state == "complete" for each in table.outcomes)
    seeds = {each.parameters[SEED] for each in table.outcomes if SEED in each.parameters}
    seconds = sum(each.results.get("seconds", 0.0) for each in table.outcomes)
    tiles = [
        (f"{n} of {len(table.outcomes)}", "trials finished"),
        (str(len(table.groups)), "settings"),
        *([(str(len(seeds)), "seeds")] if seeds else []),
        (duration(seconds), "of computing, shared stages counted in every trial"),
    ]
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{html_text(t)}</dt><dd>{html_text(v)}</dd></div>" for v, t in tiles)
        + "</dl>"
    )


def _table_section(table: SweepTable) -> str:
    rows = []
    for number, group in enumerate(table.groups):
        results = []
        for column in table.columns:
            mean, _, std = spread_text(group.cells.get(column)).partition(" ")
            best = " class=best" if number in table.best[column] else ""
            small = f"<small>{html_text(std)}</small>" if std else ""
            results.append(f"<td{best}>{html_text(mean)}{small}</td>")
        said = cells(table, group)[: len(table.varied) + 1]
        rows.append([*map(html_cell, said), *results])
    return html_table(head(table), rows) + html_lead(" ".join(notes(table)))


def _curve_sections(table: SweepTable) -> dict[str, tuple[str, str]]:
    """A chart for every parameter that is a number."""
    found: dict[str, tuple[str, str]] = {}
    for name in table.varied:
        values = {each.parameters[name] for each in table.outcomes if each.results}
        if len(values) < 2 or not all(map(_is_number, values)):
            continue
        panels = {column: table.titles[column] for column in table.columns[:_PANELS]}
        lines = _lines(table, name)
        if not panels or not lines:
            continue
        key, short = f"curve{len(found)}", table.names[name]
        svg = to_svg(sweep_chart(lines, panels, short), key, f"Every result over {short}")
        caption = (
            "Points are trials; lines join the means over the seeds, bands are ± a sample "
            "standard deviation."
            if lines[0].joined
            else "Points are trials, which differ in other parameters too."
        )
        body = f"<figure>{svg}<figcaption>{html_text(caption)}</figcaption></figure>\n"
        found[key] = (f"Over {short}", body)
    return found


def _lines(table: SweepTable, name: str) -> list[Line]:
    others = [other for other in table.varied if other != name]
    splitting = [other for other in others if _n_values(table, other) <= _FEW]
    names = table.names
    members: dict[str, list[Outcome]] = {}
    for each in table.outcomes:
        if each.results:
            label = ", ".join(f"{names[o]} {value_text(each.parameters[o])}" for o in splitting)
            members.setdefault(label, []).append(each)
    return [
        Line(label, {c: _points(own, name, c) for c in table.columns}, splitting == others)
        for label, own in members.items()
    ]


def _points(own: Sequence[Outcome], name: str, column: str) -> Mapping[float, list[float]]:
    points: dict[float, list[float]] = {}
    for each in own:
        value = each.parameters[name]
        if column in each.results and isinstance(value, int | float):
            points.setdefault(float(value), []).append(each.results[column])
    return points


def _n_values(table: SweepTable, name: str) -> int:
    return len({each.parameters[name] for each in table.outcomes})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _failed_section(table: SweepTable) -> str:
    rows = [
        [
            f'<td><a href="trials/{each.number}/log.txt">{each.number}</a></td>',
            html_cell(_words(table, each)),
            html_cell(each.error),
        ]
        for each in table.outcomes
        if each.state == "failed"
    ]
    if not rows:
        return ""
    return html_lead(
        "The last line of each log. The same command tries them again, in their own folders."
    ) + html_table(["trial", "settings", "what it said last"], rows)


def _trials_section(table: SweepTable, command: str) -> str:
    rows = [
        [
            f'<td><a href="trials/{each.number}">{each.number}</a></td>',
            html_cell(_words(table, each)),
            html_cell(each.state),
            *(
                html_cell(number_text(each.results[column]) if column in each.results else "")
                for column in table.columns
            ),
        ]
        for each in table.outcomes
    ]
    titles = ["trial", "settings", "state", *table.titles.values()]
    others = [line for line in remarks(table) if line.startswith("no trial has")]
    return (
        html_list(others)
        + f"<details><summary>{plural(len(rows), 'trial')}</summary>{html_table(titles, rows)}"
        + f"</details><pre>{escape(command)}</pre>"
    )


def _words(table: SweepTable, each: Outcome) -> str:
    names = table.names
    said = [name for name in each.parameters if name in (*table.varied, SEED)]
    return ", ".join(f"{names[name]} {value_text(each.parameters[name])}" for name in said)
