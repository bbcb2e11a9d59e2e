"""The table of a ladder and what it says, for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from detaux_pl.evaluation.compare import Row
from detaux_pl.evaluation.ladder import Budget, Rated, Worth
from detaux_pl.evaluation.significance import LEVEL
from detaux_pl.report.compare_table import UNKNOWN, cost_cells, score_text
from detaux_pl.report.wording import p_text, percent, plural, points


def labels_text(budget: Budget) -> str:
    """Write how many labels of each class there are."""
    return f"{'all, ' if budget.labels is None else ''}{budget.known:.3g}"


def head(budgets: Sequence[Budget]) -> list[str]:
    """Name the columns."""
    comparison = budgets[0].comparison
    return [
        "labels a class", "rung", "seeds", f"{comparison.score} [%] ± 95 % CI",
        f"vs {comparison.reference.name} [points]", "p", "p (Holm)", "seconds",
        "parameters (at test)",
    ]  # fmt: skip


def cells(budget: Budget, row: Row, rated: Rated) -> list[str]:
    """Write a row; a star marks a difference that is shown, an arrow the rung to take."""
    gap = p = corrected = "" if row is budget.comparison.reference else UNKNOWN
    if row.test is not None:
        gap = points(row.test.difference.mean) + "*" * row.significant
        p = UNKNOWN if row.test.p_value is None else p_text(row.test.p_value)
        corrected = UNKNOWN if row.p_holm is None else p_text(row.p_holm)
    return [
        labels_text(budget),
        row.name + " ←" * (rated is budget.chosen),
        str(row.summary.n),
        score_text(row.summary),
        gap,
        p,
        corrected,
        f"{rated.seconds:.3g}",
        cost_cells(row)[0],
    ]


def rows(budgets: Sequence[Budget]) -> list[list[str]]:
    """Write all rows, from the fewest labels to the most and the best rung to the worst."""
    return [
        cells(budget, row, rated)
        for budget in budgets
        for row, rated in zip(budget.comparison.rows, budget.rated, strict=True)
    ]


def advice(budget: Budget) -> str:
    """Say which rung to take."""
    best, chosen = budget.best, budget.chosen
    lead = f"At {budget.known:.3g} labels a class, take {chosen.name}"
    if chosen is best:
        return (
            f"{lead}: it is best with {percent(best.mean)}, and nothing cheaper is within one "
            f"standard error ({100 * best.error:.1f} points) of it."
        )
    return (
        f"{lead}: {percent(chosen.mean)}, the cheapest rung within one standard error "
        f"({100 * best.error:.1f} points) of the best, {best.name} with {percent(best.mean)}."
    )


def worth_text(worth: Worth) -> str:
    """Say what a discovered task is worth in labels."""
    what = "erasing" if worth.rung == "erasure" else f"learning ({worth.rung})"
    if worth.more == 0:
        amount = "no further label"
    elif math.isinf(worth.more):
        amount = f"more than {worth.most - worth.labels:.3g} more labels a class"
    else:
        more = max(1, round(worth.more))
        amount = f"as much as {plural(more, 'more label')} a class"
    return (
        f"At {worth.labels:.3g} labels a class, {what} the discovered groups is worth {amount} "
        f"({points(worth.gain)} points over {worth.alone})."
    )


def sentences(budgets: Sequence[Budget], worths: Sequence[Worth]) -> list[str]:
    """Say what is to be done, a sentence each."""
    return [*map(advice, budgets), *map(worth_text, worths)]


def notes(budgets: Sequence[Budget]) -> list[str]:
    """Say how the table is to be read, a sentence each."""
    comparison = budgets[0].comparison
    found = []
    if any(row.summary.n > 1 for budget in budgets for row in budget.comparison.rows):
        found.append(
            "± is half the width of the 95 % interval of the mean over the seeds (Student t)."
        )
    else:
        found.append("One seed each, which allows no test.")
    n_tests = max(budget.comparison.n_tests for budget in budgets)
    if n_tests:
        found.append(
            f"Paired t-test over the seeds against {comparison.reference.name}; * p < {LEVEL} "
            f"after Holm's correction for the {plural(n_tests, 'test')} of a number of labels."
        )
    found.append(
        "The standard error is that of other seeds and of other test images "
        f"({budgets[0].n_test:,}). Seconds are those of the training, with the features and the "
        "discovery that it needs; ← is the cheapest rung within one standard error of the best."
    )
    return found


def to_rich(budgets: Sequence[Budget], said: Sequence[str]) -> Table:
    """Lay out the table for the terminal."""
    caption = "\n".join([*notes(budgets), "", *said])
    table = Table(caption=Text(caption), caption_justify="left")
    for k, title in enumerate(head(budgets)):
        table.add_column(Text(title), justify="left" if k == 1 else "right")
    for budget in budgets:
        for row, rated in zip(budget.comparison.rows, budget.rated, strict=True):
            style = "bold" if rated is budget.chosen else None
            table.add_row(*map(Text, cells(budget, row, rated)), style=style)
        table.add_section()
    return table


def to_markdown(budgets: Sequence[Budget], said: Sequence[str]) -> str:
    """Write the table in Markdown."""
    titles = head(budgets)
    lines = [titles, ["---:", "---", *["---:"] * (len(titles) - 2)], *rows(budgets)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    text = f"{table}\n{' '.join(notes(budgets))}\n".replace("*", "\\*")
    return text + "".join(f"\n- {sentence}" for sentence in said) + "\n"


def to_csv(budgets: Sequence[Budget], said: Sequence[str]) -> str:
    """Write the numbers, a row for each rung, number of labels and seed."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["labels", "rung", "seed", "accuracy", "seconds", "chosen"])
    for budget in budgets:
        for row, rated in zip(budget.comparison.rows, budget.rated, strict=True):
            for seed, score in sorted(row.arm.scores.items()):
                given = [f"{budget.known:g}", row.name, seed, f"{score:.6f}"]
                writer.writerow([*given, f"{rated.seconds:.2f}", int(rated is budget.chosen)])
    return buffer.getvalue()


def to_json(
    budgets: Sequence[Budget],
    worths: Sequence[Worth],
    said: Sequence[str],
    about: Mapping[str, str],
) -> str:
    """Write all of it.

    Args:
        budgets: The ladder.
        worths: What discovered tasks are worth.
        said: The sentences.
        about: What each rung is.
    """
    content = {
        "metric": budgets[0].comparison.metric,
        "reference": budgets[0].comparison.reference.name,
        "budgets": [
            {
                "labels": budget.labels,
                "labels_per_class": budget.known,
                "n_test": budget.n_test,
                "best": budget.best.name,
                "recommended": budget.chosen.name,
                "rungs": {
                    row.name: {
                        "about": about.get(row.name, ""),
                        "scores": {str(seed): v for seed, v in sorted(row.arm.scores.items())},
                        **asdict(row.summary),
                        "error": rated.error,
                        "seconds": rated.seconds,
                        "difference": None if row.test is None else row.test.difference.mean,
                        "p_value": None if row.test is None else row.test.p_value,
                        "p_holm": row.p_holm,
                        "cost": dict(row.cost),
                    }
                    for row, rated in zip(budget.comparison.rows, budget.rated, strict=True)
                },
            }
            for budget in budgets
        ],
        "worth_in_labels": [
            {**asdict(worth), "more": None if math.isinf(worth.more) else worth.more}
            for worth in worths
        ],
        "sentences": list(said),
    }
    return json.dumps(content, indent=2) + "\n"
