"""Arms of several runs, side by side: accuracy, tests against one of them, and cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from detaux_pl.artifacts.errors import UserError
from detaux_pl.evaluation.significance import PairedTest, Summary, holm, paired_test, summarise
from detaux_pl.evaluation.wording import LEVEL, p_text, plural, points

Kind = Literal["", "control", "ceiling"]
"""What an arm is for: `control` learns labels dealt out at random, `ceiling` the true labels of
a hidden factor; neither competes for being the best."""

COSTS = ("parameters", "inference_parameters", "flops", "seconds_per_epoch", "peak_memory")
UNKNOWN = "n/a"
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
        "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": "$<$", ">": "$>$", "±": r"$\pm$", "\N{MINUS SIGN}": "$-$",
    }
)  # fmt: skip
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*`<["})


@dataclass(frozen=True)
class Arm:
    """The finished trainings of one arm of a run.

    Args:
        run: Short name of the run, unique in the comparison.
        arm: Name of the arm in its run.
        kind: What the arm is for.
        scores: Test score of each seed, in [0, 1]; at least one.
        costs: Contents of `cost.json` of the seeds that have one.
    """

    run: str
    arm: str
    kind: Kind
    scores: Mapping[int, float]
    costs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Row:
    """One arm in the table.

    Args:
        name: `run/arm`, or the arm's name where there is one run only.
        arm: The arm.
        summary: Mean and 95 % interval of its scores over the seeds.
        test: Paired test of the arm minus the reference; None for the reference, and where the
            two have no seed in common.
        gaps: Difference to the reference by seed, over the seeds that both have.
        p_holm: p-value corrected for the number of tests in the table; None for no test.
        cost: Median over the seeds, by name as in `COSTS`; None for unknown.
    """

    name: str
    arm: Arm
    summary: Summary
    test: PairedTest | None
    gaps: Mapping[int, float]
    p_holm: float | None
    cost: Mapping[str, float | None]

    @property
    def outcomes(self) -> tuple[int, int, int]:
        """Number of seeds in which the arm wins, loses and ties against the reference."""
        signs = [(gap > 0) - (gap < 0) for gap in self.gaps.values()]
        return signs.count(1), signs.count(-1), signs.count(0)

    @property
    def significant(self) -> bool:
        """Whether a difference is shown, all tests of the table considered."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True)
class Comparison:
    """Arms of one or several runs.

    Args:
        rows: The arms, the highest mean first.
        reference: The row that the others are tested against.
        best: The row of the highest mean among the arms that compete.
        metric: `accuracy` or `f1`.
        task: Task whose test score is compared.
        devices: What the costs were measured on.
    """

    rows: Sequence[Row]
    reference: Row
    best: Row | None
    metric: str
    task: str
    devices: Sequence[str]

    @property
    def n_tests(self) -> int:
        """Number of tests that Holm's correction is for."""
        return sum(row.p_holm is not None for row in self.rows)

    @property
    def score(self) -> str:
        """Name of what is compared, for headings."""
        name = "macro-F1" if self.metric == "f1" else "accuracy"
        return name if self.task == "principal" else f"{self.task} {name}"


def compare(
    arms: Sequence[Arm], reference: Arm, metric: str = "accuracy", task: str = "principal"
) -> Comparison:
    """Test every arm against one of them, with the seeds as pairs.

    Args:
        arms: The arms, the reference among them.
        reference: What the others are tested against.
        metric: `accuracy` or `f1`.
        task: Task of the scores.

    Raises:
        UserError: If there is no arm, an arm has no score, or the reference is not among them.
    """
    if not any(arm is reference for arm in arms) or not all(arm.scores for arm in arms):
        raise UserError("give arms with a finished training each, the reference among them.")
    short = len({arm.run for arm in arms}) == 1
    tests: dict[int, PairedTest] = {}
    for k, arm in enumerate(arms):
        common = [seed for seed in arm.scores if seed in reference.scores]
        if arm is not reference and common:
            ours, theirs = ([each.scores[seed] for seed in common] for each in (arm, reference))
            tests[k] = paired_test(ours, theirs)
    values = {k: test.p_value for k, test in tests.items() if test.p_value is not None}
    corrected = dict(zip(values, holm(list(values.values())), strict=True))
    rows = [
        Row(
            name=arm.arm if short else f"{arm.run}/{arm.arm}",
            arm=arm,
            summary=summarise(list(arm.scores.values())),
            test=tests.get(k),
            gaps={
                seed: score - reference.scores[seed]
                for seed, score in sorted(arm.scores.items())
                if k in tests and seed in reference.scores
            },
            p_holm=corrected.get(k),
            cost={name: _median(arm.costs, name) for name in COSTS},
        )
        for k, arm in enumerate(arms)
    ]
    rows.sort(key=lambda row: -row.summary.mean)
    return Comparison(
        rows=rows,
        reference=next(row for row in rows if row.arm is reference),
        best=next((row for row in rows if not row.arm.kind), None),
        metric=metric,
        task=task,
        devices=sorted({str(cost["device"]) for arm in arms for cost in arm.costs}),
    )


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


def _median(costs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [float(cost[name]) for cost in costs if cost.get(name) is not None]
    return statistics.median(known) if known else None


def _three(value: float) -> str:
    """Write a number below 1000 to three digits; whole numbers as they are."""
    if value == int(value):
        return str(int(value))
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:.{digits}f}"
