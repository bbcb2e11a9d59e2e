"""The table of a comparison, for the terminal, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from detaux_pl.evaluation.compare import Comparison, Row
from detaux_pl.evaluation.significance import LEVEL, Summary
from detaux_pl.report.wording import p_text, plural, points

UNKNOWN = "n/a"
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
        "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": "$<$", ">": "$>$", "±": r"$\pm$", "\N{MINUS SIGN}": "$-$",
    }
)  # fmt: skip
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*`<["})


def head(comparison: Comparison) -> list[str]:
    """Name the columns of the table."""
    return [
        "arm", "seeds", f"{comparison.score} [%] ± 95 % CI",
        f"vs {comparison.reference.name} [points]", "p", "p (Holm)", "wins/losses/ties",
        "parameters (at test)", "FLOPs per image", "s per epoch", "peak memory",
    ]  # fmt: skip


def cells(comparison: Comparison, row: Row) -> list[str]:
    """Write a row of the table; a star marks a difference that is shown."""
    gap = p = corrected = outcomes = "" if row is comparison.reference else UNKNOWN
    if row.test is not None:
        gap = points(row.test.difference.mean) + "*" * row.significant
        p = UNKNOWN if row.test.p_value is None else p_text(row.test.p_value)
        corrected = UNKNOWN if row.p_holm is None else p_text(row.p_holm)
        outcomes = "/".join(map(str, row.outcomes))
    return [
        row.name + (f" ({row.arm.kind})" if row.arm.kind else ""),
        str(row.summary.n),
        score_text(row.summary),
        gap,
        p,
        corrected,
        outcomes,
        *cost_cells(row),
    ]


def score_text(summary: Summary) -> str:
    """Write a mean with half the width of its interval, in per cent: `28.8 ± 1.2`."""
    if summary.low is None or summary.high is None:
        return f"{100 * summary.mean:.1f}"
    return f"{100 * summary.mean:.1f} ± {50 * (summary.high - summary.low):.1f}"


def cost_cells(row: Row) -> list[str]:
    """Write what an arm costs: parameters, operations, time and memory."""
    cost = row.cost
    parameters = si(cost["parameters"])
    used = si(cost["inference_parameters"])
    if used not in (UNKNOWN, parameters):
        parameters += f" ({used})"
    seconds = cost["seconds_per_epoch"]
    return [
        parameters,
        si(cost["flops"]),
        UNKNOWN if seconds is None else _three(seconds),
        si(cost["peak_memory"], "B"),
    ]


def si(value: float | None, unit: str = "") -> str:
    """Write a number to three digits with its prefix: 11 181 642 -> `11.2 M`."""
    if value is None:
        return UNKNOWN
    prefixes = ("", "k", "M", "G", "T", "P")
    power = 0
    # What rounds to 1000 belongs to the next prefix.
    while power + 1 < len(prefixes) and value >= 999.5 * 1000**power:
        power += 1
    return f"{_three(value / 1000**power)} {prefixes[power]}{unit}".rstrip()


def notes(comparison: Comparison, mark: str = "*") -> list[str]:
    """Say how the table is to be read, a sentence each.

    Args:
        comparison: What the table shows.
        mark: What marks a difference that is shown.
    """
    found = [
        "± is half the width of the 95 % interval of the mean over the seeds (Student t)."
        if any(row.summary.n > 1 for row in comparison.rows)
        else "One seed each, which allows no test.",
    ]
    if comparison.n_tests:
        found.append(
            f"Paired t-test over the seeds that an arm shares with {comparison.reference.name}; "
            f"{mark} p < {LEVEL} after Holm's correction for {plural(comparison.n_tests, 'test')}."
        )
    if any(value is not None for row in comparison.rows for value in row.cost.values()):
        where = " and ".join(comparison.devices)
        found.append(f"Costs are medians over the seeds, measured on {where}.")
    if len(comparison.devices) > 1:
        found.append("Time and memory of different devices do not compare.")
    return found


def to_markdown(comparison: Comparison) -> str:
    """Write the table in Markdown."""
    lines = [[text.translate(_MARKDOWN) for text in head(comparison)]]
    lines.append(["---", *("---:" for _ in lines[0][1:])])
    for row in comparison.rows:
        written = [text.translate(_MARKDOWN) for text in cells(comparison, row)]
        lines.append(_emphasise(written, row is comparison.best, "**{}**"))
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\n{' '.join(notes(comparison)).translate(_MARKDOWN)}\n"


def to_latex(comparison: Comparison) -> str:
    """Write the table in LaTeX, for the package booktabs."""

    def line(texts: Sequence[str], best: bool = False) -> str:
        written = [text.translate(_LATEX) for text in texts]
        return " & ".join(_emphasise(written, best, "\\textbf{{{}}}")) + " \\\\\n"

    titles = head(comparison)
    body = "".join(line(cells(comparison, row), row is comparison.best) for row in comparison.rows)
    return (
        "".join(f"% {note}\n" for note in notes(comparison))
        + f"\\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}\n\\toprule\n"
        + f"{line(titles)}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
    )


def to_rich(comparison: Comparison) -> Table:
    """Lay out the table for the terminal."""
    table = Table(caption=Text("\n".join(notes(comparison))), caption_justify="left")
    for k, title in enumerate(head(comparison)):
        table.add_column(Text(title), justify="right" if k else "left")
    for row in comparison.rows:
        style = "bold" if row is comparison.best else None
        table.add_row(*map(Text, cells(comparison, row)), style=style)
    return table


def _emphasise(written: list[str], best: bool, template: str) -> list[str]:
    """Mark the name and the mean of the best row."""
    return [
        template.format(text) if best and k in (0, 2) else text for k, text in enumerate(written)
    ]


def _three(value: float) -> str:
    """Write a number below 1000 to three digits; whole numbers as they are."""
    if value == int(value):
        return str(int(value))
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:.{digits}f}"
