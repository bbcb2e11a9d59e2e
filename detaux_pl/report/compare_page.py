"""The page of a comparison: one HTML file that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from importlib.resources import files
from string import Template
from typing import Literal

from detaux_pl.evaluation.compare import Comparison, Row
from detaux_pl.evaluation.significance import LEVEL
from detaux_pl.report.compare_table import UNKNOWN, cost_cells, notes, score_text, si
from detaux_pl.report.cost_charts import Priced, cost_chart, gaps_chart
from detaux_pl.report.markup import html_cell, html_lead, html_list, html_table, html_text
from detaux_pl.report.style import MUTED, PALETTE, to_svg
from detaux_pl.report.wording import p_clause, p_text, percent, plural, points

_BADGES = {"gain": "Gain", "loss": "Loss", "none": "No gain shown", "open": "Open"}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
_SIGNS = {True: ("var(--good)", "▲"), False: ("var(--bad)", "▼")}


def render_comparison(
    comparison: Comparison,
    principal: str,
    folders: Mapping[str, str],
    remarks: Sequence[str],
    command: str,
) -> str:
    """Render a comparison as one self-contained page.

    Args:
        comparison: The arms.
        principal: What the principal task tells.
        folders: Folder of each run, by its short name.
        remarks: What else is to be said of the runs, a line each.
        command: The command that made the page.
    """
    tone, headline = _headline(comparison, principal)
    sections = {
        "table": ("Which arm is best?", _table_section(comparison)),
        "cost": ("What does it cost?", _cost_section(comparison)),
        "seeds": ("Seed by seed", _seeds_section(comparison)),
        "runs": ("The runs", _runs_section(comparison, folders, remarks, command)),
    }
    shown = {name: part for name, part in sections.items() if part[1]}
    room = files(__package__)
    template = (room / "page.html").read_text(encoding="utf-8")
    return Template(template.replace("detaux report", "detaux compare")).substitute(
        title=escape(f"{principal} · detaux compare"),
        style=(room / "page.css").read_text(encoding="utf-8").strip(),
        tone=tone,
        badge=_BADGES[tone],
        run=html_text(", ".join(folders)),
        headline=html_text(headline),
        details=html_list(_details(comparison)),
        tiles=_tiles(comparison, principal),
        links="".join(
            f'<a href="#{name}">{html_text(title)}</a>' for name, (title, _) in shown.items()
        ),
        sections="\n".join(
            f'<section id="{name}"><h2>{html_text(title)}</h2>\n{body}</section>'
            for name, (title, body) in shown.items()
        ),
        footer=html_text(f"detaux_pl {version('detaux_pl')}"),
    )


def _headline(
    comparison: Comparison, principal: str
) -> tuple[Literal["gain", "loss", "none", "open"], str]:
    """Say what the arms that compete have shown against the reference."""
    reference, best = comparison.reference, comparison.best
    what = f"{principal} {comparison.score}" if comparison.task == "principal" else comparison.score
    reached = f"{what} is {percent(reference.summary.mean)} with {reference.name}"
    rows = [row for row in comparison.rows if not row.arm.kind and row.p_holm is not None]
    if not rows:
        return "open", f"No test: {reached}, and no other arm has two seeds in common with it."
    better = [row for row in rows if row.significant and _gap(row) > 0]
    if better:
        top = better[0]
        difference = f"{points(_gap(top))} points over {reference.name}"
        p = p_clause(top.p_holm or 0.0).replace(" ", "\N{NO-BREAK SPACE}")
        lead = "leads" if top is best else "does better than the reference"
        return "gain", (
            f"{top.name} {lead}: {what} {percent(top.summary.mean)}, {difference} "
            f"({p} after Holm's correction)."
        )
    if all(row.significant for row in rows):
        arms = "the other arm does" if len(rows) == 1 else f"all {len(rows)} other arms do"
        return "loss", f"{reference.name} is best: {reached}; {arms} worse."
    return "none", f"No arm is shown to do better than {reference.name}: {reached}."


def _details(comparison: Comparison) -> list[str]:
    rows = [row for row in comparison.rows if row.p_holm is not None]
    better = sum(row.significant and _gap(row) > 0 for row in rows)
    worse = sum(row.significant and _gap(row) < 0 for row in rows)
    found = []
    if rows:
        found.append(
            f"Of {plural(len(rows), 'arm')} tested against {comparison.reference.name}, {better} "
            f"{'does' if better == 1 else 'do'} better, {worse} worse, and of "
            f"{len(rows) - better - worse} no difference is shown (p < {LEVEL} after Holm's "
            "correction)."
        )
    for kind, meaning in (
        ("control", "learns labels dealt out at random"),
        ("ceiling", "learns the true labels of hidden factors"),
    ):
        names = [row.name for row in comparison.rows if row.arm.kind == kind]
        if names:
            found.append(f"Out of competition ({kind}, {meaning}): {', '.join(names)}.")
    return found


def _tiles(comparison: Comparison, principal: str) -> str:
    """The numbers to take home."""
    reference, best = comparison.reference, comparison.best
    named = [] if best in (None, reference) else [best]
    tiles = [
        (percent(row.summary.mean), row.name) for row in (*named, reference) if row is not None
    ]
    seeds = {seed for row in comparison.rows for seed in row.arm.scores}
    tiles.append((str(len(comparison.rows)), "arms"))
    tiles.append((str(sum(row.summary.n for row in comparison.rows)), "trainings"))
    tiles.append((str(len(seeds)), "different seeds"))
    return (
        '<dl class="tiles" style="overflow-wrap: anywhere">'
        + "".join(f"<div><dt>{html_text(t)}</dt><dd>{html_text(v)}</dd></div>" for v, t in tiles)
        + "</dl>"
    )


def _table_section(comparison: Comparison) -> str:
    reference = comparison.reference
    titles = [
        "arm", f"{comparison.score} [%]", "difference [points]", "p (Holm)", "won / lost / tied",
        "parameters", "FLOPs per image", "s per epoch", "peak memory",
    ]  # fmt: skip
    several = len({row.arm.run for row in comparison.rows}) > 1
    rows = []
    for row in comparison.rows:
        role = "reference" if row is reference else row.arm.kind
        about = (row.arm.run if several else "", plural(row.summary.n, "seed"), role)
        mean, _, half = score_text(row.summary).partition(" ")
        _, flops, seconds, memory = cost_cells(row)
        total, used = row.cost["parameters"], row.cost["inference_parameters"]
        at_test = f"{si(used)} at test" if used is not None and si(used) != si(total) else ""
        rows.append(
            [
                html_cell(row.arm.arm, " · ".join(filter(None, about))),
                html_cell(mean, half),
                *_test_cells(row, row is reference),
                html_cell(si(total), at_test),
                *map(html_cell, (flops, seconds, memory)),
            ]
        )
    marks = [row is comparison.best for row in comparison.rows]
    return html_table(titles, rows, marks) + html_lead(
        " ".join([*notes(comparison, "▲ ▼"), _READING])
    )


_READING = (
    "FLOPs count a product and its sum as two; time and memory are those of training, without "
    "validation. The best mean among the arms that compete is bold."
)


def _test_cells(row: Row, is_reference: bool) -> list[str]:
    if row.test is None:
        return [html_cell("" if is_reference else UNKNOWN)] * 3
    difference = row.test.difference
    around = ""
    if difference.low is not None and difference.high is not None:
        around = f"{points(difference.low)} to {points(difference.high)}"
    sign = ""
    if row.significant:
        colour, arrow = _SIGNS[difference.mean > 0]
        sign = f'<span style="color:{colour}">{arrow}</span> '
    p = row.test.p_value
    return [
        f"<td>{sign}{html_text(points(difference.mean))}{_small(around)}</td>",
        html_cell(
            UNKNOWN if row.p_holm is None else p_text(row.p_holm),
            "" if p is None else f"raw {p_text(p)}",
        ),
        html_cell(" / ".join(map(str, row.outcomes))),
    ]


def _cost_section(comparison: Comparison) -> str:
    looks = _looks(comparison.rows)
    methods = [
        Priced(
            name=row.name,
            mean=100 * row.summary.mean,
            interval=_interval(row),
            costs=(row.cost["inference_parameters"], row.cost["seconds_per_epoch"]),
            colour=MUTED if row.arm.kind else looks[row.name][0],
            marker=looks[row.name][1],
            ranked=not row.arm.kind,
        )
        for row in comparison.rows
    ]
    if all(cost is None for each in methods for cost in each.costs):
        return ""
    titles = ("parameters at test", "seconds per epoch")
    figure = cost_chart(methods, titles, f"test {comparison.score} [%]")
    unknown = [each.name for each in methods if None in each.costs]
    caption = (
        "A mark is the mean over the seeds, a bar its 95 % interval. Along the dashed line nothing "
        "cheaper is as good; arms in grey do not compete."
    )
    if unknown:
        caption += f" Costs are not known of {', '.join(unknown)}."
    return _figure(to_svg(figure, "cost", "Score of every arm against its cost"), caption)


def _looks(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each row: arms of one name share a hue, which few of a run do."""
    names = list(dict.fromkeys(row.arm.arm for row in sorted(rows, key=lambda row: row.arm.kind)))
    runs = list(dict.fromkeys(row.arm.run for row in rows))
    rounds = -(-len(names) // len(PALETTE))
    looks = {}
    for row in rows:
        turn, hue = divmod(names.index(row.arm.arm), len(PALETTE))
        marker = runs.index(row.arm.run) * rounds + turn
        looks[row.name] = PALETTE[hue], _MARKERS[marker % len(_MARKERS)]
    return looks


def _interval(row: Row) -> tuple[float, float] | None:
    low, high = row.summary.low, row.summary.high
    return None if low is None or high is None else (100 * low, 100 * high)


def _seeds_section(comparison: Comparison) -> str:
    gaps = {
        row.name: {seed: 100 * gap for seed, gap in row.gaps.items()}
        for row in comparison.rows
        if row.gaps
    }
    if not gaps:
        return ""
    alt = "Difference of every arm to the reference, by seed"
    return _figure(
        to_svg(gaps_chart(gaps), "gaps", alt),
        f"Difference to {comparison.reference.name} under the same seed [points]: blue is better, "
        "orange worse.",
    )


def _runs_section(
    comparison: Comparison, folders: Mapping[str, str], remarks: Sequence[str], command: str
) -> str:
    rows = []
    for name, folder in folders.items():
        own = [row for row in comparison.rows if row.arm.run == name]
        trainings = str(sum(row.summary.n for row in own))
        devices = sorted({str(cost["device"]) for row in own for cost in row.arm.costs})
        rows.append(
            [
                html_cell(name, folder),
                html_cell(str(len(own))),
                html_cell(trainings),
                html_cell(", ".join(devices) or UNKNOWN),
            ]
        )
    return (
        html_table(["run", "arms", "trainings", "costs measured on"], rows)
        + html_list([f"{remark[0].upper()}{remark[1:]}." for remark in remarks])
        + f"<pre>{escape(command)}</pre>"
    )


def _gap(row: Row) -> float:
    return 0.0 if row.test is None else row.test.difference.mean


def _small(detail: str) -> str:
    return f"<small>{html_text(detail)}</small>" if detail else ""


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{html_text(caption)}</figcaption></figure>\n"
