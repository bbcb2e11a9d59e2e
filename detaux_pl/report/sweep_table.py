"""The trials of a sweep in one table: means over seeds, and the best of every column."""

from __future__ import annotations

import csv
import difflib
import io
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from detaux_pl.metrics.records import find_score
from detaux_pl.report.wording import plural

Scalar = str | int | float | bool | None
State = Literal["complete", "failed", "unfinished"]

SEED = "seed"
"""The parameter whose values are repetitions."""
_NEUTRAL = ("auxiliary", "seconds")
"""Results of which neither more nor less is better."""
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
        "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "|": "$|$", "<": "$<$", ">": "$>$", "±": r"$\pm$", "\N{MINUS SIGN}": "$-$",
        "·": r"$\cdot$", "↓": r"$\downarrow$",
    }
)  # fmt: skip
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*`<[_"})


@dataclass(frozen=True)
class Outcome:
    """One trial.

    Args:
        number: Its number.
        state: Where it stands.
        parameters: Its parameters.
        results: Its results by dotted name.
        error: Why it failed.
    """

    number: int
    state: State
    parameters: Mapping[str, Scalar]
    results: Mapping[str, float]
    error: str = ""


@dataclass(frozen=True)
class Spread:
    """A result over the seeds of a group.

    Args:
        mean: Its mean.
        std: Sample standard deviation (n - 1 in the denominator); None for one seed.
        n: Number of seeds.
    """

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Group:
    """Trials that are equal but for their seed.

    Args:
        parameters: What they have in common.
        outcomes: The trials.
        cells: Mean over the complete ones and its spread, by column; columns without a value are
            left out.
    """

    parameters: Mapping[str, Scalar]
    outcomes: Sequence[Outcome]
    cells: Mapping[str, Spread]

    @property
    def n(self) -> int:
        """Number of complete trials."""
        return sum(each.state == "complete" for each in self.outcomes)


@dataclass(frozen=True)
class SweepTable:
    """The trials of a sweep.

    Args:
        outcomes: All trials.
        varied: Names of the parameters that differ between them, without the seed.
        constant: The others, with their value.
        columns: Names of the results that are shown.
        unknown: Names of results that were asked for and that no trial has.
        groups: The trials by what they have in common.
        best: Numbers of the best groups of each column that is a contest.
    """

    outcomes: Sequence[Outcome]
    varied: tuple[str, ...]
    constant: Mapping[str, Scalar]
    columns: tuple[str, ...]
    unknown: tuple[str, ...]
    groups: Sequence[Group]
    best: Mapping[str, frozenset[int]]

    @property
    def names(self) -> dict[str, str]:
        """Short name of every parameter."""
        return short_names([*self.varied, *self.constant, SEED])

    @property
    def titles(self) -> dict[str, str]:
        """Short name of every column."""
        return {column: _title(column) for column in self.columns}


def tabulate(outcomes: Sequence[Outcome], columns: Sequence[str] | None = None) -> SweepTable:
    """Group trials by all parameters but the seed.

    Args:
        outcomes: The trials, at least one, all with the same parameters.
        columns: Names of the results to show; None for all scores.

    Raises:
        ValueError: If there is no trial.
    """
    if not outcomes:
        raise ValueError("there is no trial: give at least one.")
    names = [name for name in outcomes[0].parameters if name != SEED]
    varied = tuple(name for name in names if len(_distinct(outcomes, name)) > 1)
    found = dict.fromkeys(name for each in outcomes for name in each.results)
    asked = [name for name in found if _is_score(name)] if columns is None else columns
    shown = tuple(dict.fromkeys(name for name in asked if name in found))
    members: dict[tuple[Scalar, ...], list[Outcome]] = {}
    for each in outcomes:
        members.setdefault(tuple(each.parameters[name] for name in names), []).append(each)
    groups = [
        Group(
            dict(zip(names, values, strict=True)),
            own,
            {
                column: _spread(numbers)
                for column in shown
                if (numbers := [each.results[column] for each in own if column in each.results])
            },
        )
        for values, own in members.items()
    ]
    return SweepTable(
        outcomes=outcomes,
        varied=varied,
        constant={n: outcomes[0].parameters[n] for n in names if n not in varied},
        columns=shown,
        unknown=tuple(name for name in asked if name not in found),
        groups=groups,
        best={column: _best(groups, column) for column in shown},
    )


def head(table: SweepTable) -> list[str]:
    """Name the columns of the table."""
    names, titles = table.names, table.titles
    return [*(names[name] for name in table.varied), "trials", *titles.values()]


def cells(table: SweepTable, group: Group) -> list[str]:
    """Write a row of the table."""
    whole = len(group.outcomes)
    return [
        *(value_text(group.parameters[name]) for name in table.varied),
        str(whole) if group.n == whole else f"{group.n} of {whole}",
        *(spread_text(group.cells.get(column)) for column in table.columns),
    ]


def value_text(value: Scalar) -> str:
    """Write the value of a parameter as YAML does, numbers to six digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def spread_text(spread: Spread | None) -> str:
    """Write a mean with its sample standard deviation: `0.312 ± 0.020`."""
    if spread is None:
        return ""
    mean = number_text(spread.mean)
    if spread.std is None:
        return mean
    digits = len(mean.partition(".")[2])
    return f"{mean} ± {spread.std:.{digits}f}"


def number_text(value: float) -> str:
    """Write a result: three decimals, fewer where it is large."""
    digits = 3 if abs(value) < 99.9995 else 1 if abs(value) < 999.95 else 0
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def in_words(parameters: Mapping[str, Scalar]) -> str:
    """Name a trial by its parameters: `beta 4 · seed 0`."""
    names = short_names(list(parameters))
    return " · ".join(f"{names[name]} {value_text(v)}" for name, v in parameters.items())


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Name each parameter by as many of its last parts as tell it from the others."""
    parts = {name: name.split(".") for name in names}
    short = {}
    for name, own in parts.items():
        length = 1
        while sum(own[-length:] == other[-length:] for other in parts.values()) > 1:
            length += 1
        short[name] = ".".join(own[-length:])
    return short


def remarks(table: SweepTable) -> list[str]:
    """Say what the table does not show, a line each."""
    lines = []
    for name in table.unknown:
        found = {column: None for each in table.outcomes for column in each.results}
        match = difflib.get_close_matches(name, found, n=1)
        hint = f": did you mean {match[0]!r}?" if match else "."
        lines.append(f"no trial has the result {name!r}, which is left out{hint}")
    left = [each.number for each in table.outcomes if each.state == "unfinished"]
    if left:
        lines.append(f"{plural(len(left), 'trial')} not finished: {_enumerate(left)}")
    for each in table.outcomes:
        if each.state == "failed":
            lines.append(f"trial {each.number} ({in_words(each.parameters)}) failed: {each.error}")
    return lines


def notes(table: SweepTable) -> list[str]:
    """Say how the table is to be read, a sentence each."""
    found = []
    if any(cell.n > 1 for group in table.groups for cell in group.cells.values()):
        found.append("Mean ± sample standard deviation over the seeds.")
    if any(table.best.values()):
        found.append("The best of a column is bold; ↓ less is better.")
    if table.constant:
        same = ", ".join(
            f"{table.names[name]} {value_text(value)}" for name, value in table.constant.items()
        )
        found.append(f"The same in all trials: {same}.")
    return found


def to_markdown(table: SweepTable) -> str:
    """Write the table in Markdown."""
    lines = [
        [text.translate(_MARKDOWN) for text in head(table)],
        ["---", *("---:" for _ in head(table)[1:])],
        *_rows(table, lambda text: text.translate(_MARKDOWN), "**{}**"),
    ]
    written = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    below = [" ".join(notes(table)), *(f"- {line}" for line in remarks(table))]
    return written + "".join(f"\n{line.translate(_MARKDOWN)}\n" for line in below if line)


def to_latex(table: SweepTable) -> str:
    """Write the table in LaTeX, for the package booktabs."""
    rows = [
        [text.translate(_LATEX) for text in head(table)],
        *_rows(table, lambda text: text.translate(_LATEX), "\\textbf{{{}}}"),
    ]
    first, *body = [" & ".join(row) + " \\\\\n" for row in rows]
    n = len(table.varied)
    return (
        "".join(f"% {note}\n" for note in [*notes(table), *remarks(table)])
        + f"\\begin{{tabular}}{{{'l' * n}{'r' * (len(rows[0]) - n)}}}\n\\toprule\n"
        + f"{first}\\midrule\n{''.join(body)}\\bottomrule\n\\end{{tabular}}\n"
    )


def to_rich(table: SweepTable) -> Table:
    """Lay out the table for the terminal."""
    laid = Table(caption=Text("\n".join(notes(table))), caption_justify="left")
    for k, title in enumerate(head(table)):
        laid.add_column(Text(title), justify="left" if k < len(table.varied) else "right")
    for number, group in enumerate(table.groups):
        bold = _marks(table, number)
        laid.add_row(
            *(
                Text(text, style="bold" if mark else "")
                for text, mark in zip(cells(table, group), bold, strict=True)
            )
        )
    return laid


def to_csv(table: SweepTable) -> str:
    """Write a line per trial, with all parameters and all results."""
    parameters = [name for name in table.outcomes[0].parameters]
    results = dict.fromkeys(name for each in table.outcomes for name in each.results)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["number", "state", *parameters, *results])
    for each in table.outcomes:
        said = (each.parameters[name] for name in parameters)
        found = (each.results.get(name) for name in results)
        writer.writerow([each.number, each.state, *map(_plain, said), *found])
    return buffer.getvalue()


def to_json(table: SweepTable) -> str:
    """Write the trials, and their means over seeds."""
    content = {
        "columns": list(table.columns),
        "trials": [
            {
                "number": each.number,
                "state": each.state,
                "parameters": dict(each.parameters),
                "results": dict(each.results),
                **({"error": each.error} if each.error else {}),
            }
            for each in table.outcomes
        ],
        "groups": [
            {
                "parameters": dict(group.parameters),
                "trials": [each.number for each in group.outcomes],
                "results": {
                    column: {"mean": cell.mean, "std": cell.std, "n": cell.n}
                    for column, cell in group.cells.items()
                },
            }
            for group in table.groups
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _rows(table: SweepTable, escape: Callable[[str], str], bold: str) -> Iterable[list[str]]:
    for number, group in enumerate(table.groups):
        yield [
            bold.format(escape(text)) if mark else escape(text)
            for text, mark in zip(cells(table, group), _marks(table, number), strict=True)
        ]


def _marks(table: SweepTable, number: int) -> list[bool]:
    """Which cells of the row of a group are the best of their column."""
    best = [number in table.best[column] for column in table.columns]
    return [*[False] * (len(table.varied) + 1), *best]


def _spread(values: Sequence[float]) -> Spread:
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, len(values))


def _best(groups: Sequence[Group], column: str) -> frozenset[int]:
    """Numbers of the groups with the best mean as it is written, where there is a contest."""
    parts = column.split(".")
    known = {k: group.cells[column].mean for k, group in enumerate(groups) if column in group.cells}
    if len(known) < 2 or parts[0] in _NEUTRAL:
        return frozenset()
    sign = -1.0 if _is_lower_better(column) else 1.0
    texts = {k: number_text(mean) for k, mean in known.items()}
    first = max(known, key=lambda k: sign * known[k])
    best = frozenset(k for k, text in texts.items() if text == texts[first])
    return best if len(best) < len(known) else frozenset()


def _is_score(name: str) -> bool:
    """Whether a result is shown unless others are asked for."""
    parts = name.split(".")
    return (
        parts[0] == "metrics"
        or (parts[0] == "probes" and len(parts) == 3)
        or (parts[0] == "arms" and parts[-1] == "accuracy_mean")
        or name in ("auxiliary.nmi_principal", "seconds")
    )


def _title(column: str) -> str:
    """Write the name of a result in words, with an arrow where less is better."""
    room, *parts = column.split(".")
    last = parts[-1] if parts else room
    if room == "metrics":
        name = find_score(last).name + (f" ({parts[0]})" if len(parts) > 1 else "")
        return f"{name} ↓" if _is_lower_better(column) else name
    if room == "probes":
        return f"probe {' '.join(parts)}"
    if room == "arms":
        return f"{'.'.join(parts[:-1])} {last.replace('_', ' ')}".removesuffix(" mean")
    return last.replace("_", " ")


def _is_lower_better(column: str) -> bool:
    room, *parts = column.split(".")
    return room == "metrics" and find_score(parts[-1]).better.startswith("lower")


def _distinct(outcomes: Sequence[Outcome], name: str) -> set[Scalar]:
    return {each.parameters[name] for each in outcomes}


def _plain(value: Scalar) -> str:
    return value_text(value) if not isinstance(value, float) else repr(value)


def _enumerate(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return shown if len(numbers) <= 10 else f"{shown} and {len(numbers) - 10} more"
