"""The page of a ladder: one HTML file that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from importlib.resources import files
from string import Template

from detaux_pl.evaluation.ladder import Budget
from detaux_pl.report.compare_table import score_text
from detaux_pl.report.ladder_table import head, labels_text, notes, rows
from detaux_pl.report.markup import html_cell, html_lead, html_list, html_table, html_text
from detaux_pl.report.style import to_svg
from detaux_pl.report.sweep_figures import Line, sweep_chart
from detaux_pl.report.wording import percent


def render_ladder(
    budgets: Sequence[Budget],
    said: Sequence[str],
    about: Mapping[str, str],
    folder: str,
    command: str,
) -> str:
    """Render a ladder as one self-contained page.

    Args:
        budgets: The ladder, from the fewest labels to the most.
        said: What to do, a sentence each.
        about: What each rung is.
        folder: Folder of its runs.
        command: The command that made it.
    """
    sections = {
        "table": ("Which rung to take?", _table_section(budgets)),
        "curves": ("What are more labels worth?", _curves_section(budgets)),
        "rungs": ("The rungs", _rungs_section(about, command)),
    }
    shown = {name: part for name, part in sections.items() if part[1]}
    room = files(__package__)
    template = (room / "page.html").read_text(encoding="utf-8")
    last = budgets[-1]
    tiles = [
        (percent(last.best.mean), last.best.name),
        *([] if last.chosen is last.best else [(percent(last.chosen.mean), last.chosen.name)]),
        (str(len(last.rated)), "rungs"),
        (", ".join(map(labels_text, budgets)), "labels a class"),
        (f"{last.n_test:,}", "test images"),
    ]
    return Template(template.replace("detaux report", "detaux ladder")).substitute(
        title=escape(f"{folder} · detaux ladder"),
        style=(room / "page.css").read_text(encoding="utf-8").strip(),
        tone="none",
        badge="Advice",
        run=html_text(folder),
        headline=html_text(said[len(budgets) - 1]),
        details=html_list([line for k, line in enumerate(said) if k != len(budgets) - 1]),
        tiles='<dl class="tiles" style="overflow-wrap: anywhere">'
        + "".join(f"<div><dt>{html_text(t)}</dt><dd>{html_text(v)}</dd></div>" for v, t in tiles)
        + "</dl>",
        links="".join(
            f'<a href="#{name}">{html_text(title)}</a>' for name, (title, _) in shown.items()
        ),
        sections="\n".join(
            f'<section id="{name}"><h2>{html_text(title)}</h2>\n{body}</section>'
            for name, (title, body) in shown.items()
        ),
        footer=html_text(f"detaux_pl {version('detaux_pl')}"),
    )


def _table_section(budgets: Sequence[Budget]) -> str:
    marks = [rated is budget.chosen for budget in budgets for rated in budget.rated]
    body = [[html_cell(text) for text in row] for row in rows(budgets)]
    return html_table(head(budgets), body, marks) + html_lead(" ".join(notes(budgets)))


def _curves_section(budgets: Sequence[Budget]) -> str:
    """Draw accuracy by the number of labels, where there are several, and write it."""
    if len(budgets) < 2:
        return ""
    names = [rated.name for rated in budgets[-1].rated]
    found: dict[str, dict[float, list[float]]] = {name: {} for name in names}
    told: dict[str, list[str]] = {name: [] for name in names}
    for budget in budgets:
        by_name = {row.name: row for row in budget.comparison.rows}
        for name in names:
            row = by_name.get(name)
            told[name].append("" if row is None else score_text(row.summary))
            if row is not None:
                found[name][budget.known] = [100 * score for score in row.arm.scores.values()]
    lines = [Line(name, {"accuracy": points}, joined=True) for name, points in found.items()]
    score = budgets[-1].comparison.score
    figure = sweep_chart(lines, {"accuracy": f"test {score} [%]"}, "labels a class")
    table = html_table(
        ["rung", *(f"{labels_text(budget)} labels" for budget in budgets)],
        [[html_cell(name), *map(html_cell, told[name])] for name in names],
        [False] * len(names),
    )
    alt = "Test accuracy of each rung by the number of labels of each class"
    caption = (
        "A small mark is a seed, a line their mean, a band their standard deviation. Test images "
        "are the same everywhere; the images of fewer labels are among those of more."
    )
    svg = to_svg(figure, "curves", alt)
    return f"<figure>{svg}<figcaption>{html_text(caption)}</figcaption></figure>\n{table}"


def _rungs_section(about: Mapping[str, str], command: str) -> str:
    named = [[html_cell(name), html_cell(text)] for name, text in about.items()]
    table = html_table(["rung", "what it is"], named, [False] * len(named))
    return f"{table}<pre>{escape(command)}</pre>"
