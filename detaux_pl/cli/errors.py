"""`detaux errors`: where the networks of a run err, class by class and image by image."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import OK
from detaux_pl.artifacts.files import write_csv
from detaux_pl.cli.table import PlainParser, put_out
from detaux_pl.evaluation.errors import (
    IMAGE_COLUMNS,
    confusion,
    mistakes,
    per_class,
    reliability_rows,
    score,
    suspects,
    worst_first,
)
from detaux_pl.evaluation.together import Together, read_together
from detaux_pl.report.wording import percent, plural, range_text, short_name

_BASELINE = "single_task"
_NAME = 32
"""Letters of a class name on the terminal."""


def run(args: list[str]) -> int:
    """Run `detaux errors`.

    Args:
        args: Arguments of the command.

    Returns:
        The exit code 0.

    Raises:
        UserError: If an argument does not fit, or the run has no such training or no predictions.
    """
    given = _parser().parse_args(args)
    folder = None if given.output is None else Path(given.output)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--output is {folder}, which is a file: give the name of a folder.")
    # Not before: it imports torch, and words that do not fit are refused without it.
    from detaux_pl.inference.run import Run

    run_ = Run(given.run_dir)
    arm, seeds = run_.choose(given.arm, given.seeds)
    own = run_.together(arm, seeds)
    other = _baseline(run_.run_dir, arm, own)
    if folder is None:
        put_out(_table(f"{own.principal} · {arm}", own, other), None)
        return OK
    for name, (columns, rows) in _tables(own, other).items():
        write_csv(folder / f"{name}.csv", columns, rows)
    print(f"{plural(int((~own.right).sum()), 'mistake')} of {arm}: {folder}", file=sys.stderr)
    return OK


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="detaux errors",
        description="Where the networks of a finished run err on its test images, all seeds of an "
        f"arm together: class by class beside {_BASELINE}, which classes are taken for which, the "
        "surest mistakes, labels that no seed confirms, and how sure to be.",
    )
    parser.add_argument("run_dir", metavar="RUN", help="run folder")
    parser.add_argument("--arm", help="arm of the run; by default the main one")
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="SEED",
        help="seeds whose networks answer together; by default all",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="FOLDER",
        help="folder for per_class.csv, confusion.csv, mistakes.csv, suspects.csv and "
        "reliability.csv; by default the terminal shows the classes",
    )  # fmt: skip
    return parser


def _baseline(run_dir: Path, arm: str, own: Together) -> Together | None:
    """What the principal task alone says, by the same seeds; None where it has not all of them."""
    if arm == _BASELINE:
        return None
    other = read_together(run_dir, _BASELINE, own.seeds)
    return other if other is not None and other.seeds == own.seeds else None


def _tables(
    own: Together, other: Together | None
) -> dict[str, tuple[Sequence[str], list[dict[str, Any]]]]:
    classes, pairs, bins = per_class(own, other), confusion(own), reliability_rows(own)
    return {
        "per_class": (list(classes[0]), classes),
        "confusion": (list(pairs[0]), pairs),
        "reliability": (list(bins[0]), bins),
        "mistakes": (IMAGE_COLUMNS, mistakes(own)),
        "suspects": (IMAGE_COLUMNS, suspects(own) or []),
    }


def _table(title: str, own: Together, other: Together | None) -> Table:
    """Lay out the classes for the terminal, the lowest recall first."""
    numbers = score(own, other)
    seeds = plural(len(own.seeds), "seed") + (" together" if len(own.seeds) > 1 else "")
    table = Table(
        title=Text(
            f"{title}, {seeds}: {percent(own.accuracy)} right "
            f"({range_text(*numbers['ci95'])}), ECE {own.before.ece:.3f}, calibrated "
            f"{own.after.ece:.3f}"
        ),
        title_justify="left",
    )
    table.add_column("class")
    versus = [f"{_BASELINE}"] if other is not None else []
    for head in ("images", "recall", "95 % CI", *versus, "precision", "F1"):
        table.add_column(head, justify="right")
    table.add_column("most often taken for")
    for row in worst_first(per_class(own, other)):
        cells = [short_name(row["class"], _NAME), f"{row['images']:,}", _share(row["recall"])]
        low, high = row["recall_low"], row["recall_high"]
        cells.append("" if low is None else f"{100 * low:.0f} to {100 * high:.0f}")
        if other is not None:
            cells.append(_share(row["baseline_recall"]))
        cells += [_share(row["precision"]), _share(row["f1"])]
        taken = row["taken_for"]
        cells.append(
            "" if taken is None else f"{short_name(taken, _NAME)} ({row['taken_for_images']:,})"
        )
        table.add_row(*map(Text, cells))
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
