"""Tables of numbers over seeds, as text for several places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

import numpy as np
from rich.table import Table
from rich.text import Text

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
        "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "|": "$|$", "<": "$<$", ">": "$>$", "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--",
        **{chr(0x2080 + digit): f"$_{digit}$" for digit in range(10)},
    }
)  # fmt: skip
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*`<["})


@dataclass(frozen=True)
class Spread:
    """A number over the seeds of a group.

    Args:
        mean: Its mean.
        variance: Its population variance: the mean squared distance to the mean.
        n: Number of seeds.
    """

    mean: float
    variance: float
    n: int


@dataclass(frozen=True)
class Grid:
    """A table as text: heads of two levels, and labelled rows in blocks.

    Args:
        corner: Head of the labels.
        heads: Upper and lower head of each column; the upper ones may all be empty.
        blocks: Rows that belong together, each a label with its cells.
    """

    corner: str
    heads: list[tuple[str, str]]
    blocks: list[list[tuple[str, list[str]]]]

    @property
    def spans(self) -> list[tuple[str, int]]:
        """Upper heads with the number of columns below each; none where all are empty."""
        spans = [(top, len(list(group))) for top, group in groupby(top for top, _ in self.heads)]
        return spans if any(top for top, _ in spans) else []

    @property
    def lower(self) -> list[str]:
        """The heads right above the rows, the corner among them."""
        return [self.corner, *(head for _, head in self.heads)]

    def to_markdown(self) -> str:
        """Write the table in Markdown."""
        lines = [
            [self.corner, *(f"{top} {head}".strip() for top, head in self.heads)],
            *([label, *cells] for block in self.blocks for label, cells in block),
        ]
        written = [[text.translate(_MARKDOWN) for text in line] for line in lines]
        written.insert(1, ["---", *("---:" for _ in self.heads)])
        return "".join(f"| {' | '.join(line)} |\n" for line in written)

    def to_latex(self) -> str:
        """Write the table in LaTeX, for the package booktabs."""

        def line(cells: Sequence[str]) -> str:
            return " & ".join(text.translate(_LATEX) for text in cells) + " \\\\\n"

        tops, rules, column = [], [], 2
        for top, width in self.spans:
            tops.append(f"\\multicolumn{{{width}}}{{c}}{{{top.translate(_LATEX)}}}")
            if top:
                rules.append(f"\\cmidrule(lr){{{column}-{column + width - 1}}}")
            column += width
        upper = f" & {' & '.join(tops)} \\\\\n{' '.join(rules)}\n" if tops else ""
        bodies = ["".join(line([label, *cells]) for label, cells in block) for block in self.blocks]
        return (
            f"\\begin{{tabular}}{{l{'r' * len(self.heads)}}}\n\\toprule\n"
            f"{upper}{line(self.lower)}\\midrule\n"
            + "\\midrule\n".join(bodies)
            + "\\bottomrule\n\\end{tabular}\n"
        )

    def to_html(self) -> str:
        """Write the table as a fragment of HTML, for the style of the report's page."""
        tops = "".join(
            f'<th colspan="{width}" style="text-align:center">{escape(top)}</th>'
            for top, width in self.spans
        )
        upper = f"<tr><th></th>{tops}</tr>\n" if tops else ""
        heads = "".join(f"<th>{escape(head)}</th>" for head in self.lower)
        rows = "\n".join(
            f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in (label, *cells))}</tr>"
            for block in self.blocks
            for label, cells in block
        )
        return f"<table><thead>{upper}<tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>\n"

    def to_rich(self) -> Table:
        """Lay out the table for the terminal."""
        table = Table()
        above = "\n" if self.spans else ""
        table.add_column(Text(f"{above}{self.corner}"))
        shown = ""
        for top, head in self.heads:
            table.add_column(Text(f"{'' if top == shown else top}{above}{head}"), justify="right")
            shown = top
        for block in self.blocks:
            for label, cells in block:
                table.add_row(*map(Text, (label, *cells)))
            table.add_section()
        return table


WRITERS: dict[str, Callable[[Grid], Table | str]] = {
    "text": Grid.to_rich, "markdown": Grid.to_markdown, "latex": Grid.to_latex,
    "html": Grid.to_html,
}  # fmt: skip
"""What writes a table, by the name of the format."""


def spread(values: Sequence[float]) -> Spread:
    """Take the mean and the population variance of the numbers of all seeds."""
    return Spread(float(np.mean(values)), float(np.var(values)), len(values))


def percent_cell(number: Spread | None) -> str:
    """Write a share in per cent, and its variance over seeds in points squared."""
    if number is None:
        return ""
    mean = round(100 * number.mean, 1) + 0.0  # no negative zero
    text = f"{mean:.1f}".replace("-", "\N{MINUS SIGN}")
    return text if number.n == 1 else f"{text} ({1e4 * number.variance:.1f})"
