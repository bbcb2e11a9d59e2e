"""`detaux groups`: for whom the networks of a run fail, by class and discovered group."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import OK
from detaux_pl.artifacts.files import write_csv
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.table import PlainParser, put_out
from detaux_pl.cluster.shortcuts import read_shortcut_groups
from detaux_pl.evaluation.groups import GroupSheet, find_refitted, group_sheet, name_groups
from detaux_pl.report.wording import percent, plural, points, range_text, short_name

_NAME = 32
"""Letters of a class name on the terminal."""
_ROWS = 40
"""Cells of an arm on the terminal, at most."""


def run(args: list[str]) -> int:
    """Run `detaux groups`.

    Args:
        args: Arguments of the command.

    Returns:
        The exit code 0.

    Raises:
        UserError: If an argument does not fit, the run has no such training, predictions or task,
            or there is nothing to be said of groups.
    """
    given = _parser().parse_args(args)
    output = None if given.output is None else Path(given.output)
    if output is not None and output.suffix.lower() != ".csv":
        raise UserError(f"--output is {output}: give the name of a file ending in .csv.")
    # Not before: it imports torch, and words that do not fit are refused without it.
    from detaux_pl.inference.run import Run

    run_ = Run(given.run_dir)
    groups = name_groups(read_shortcut_groups(StageFolder(run_.run_dir, "cluster")), run_.tasks)
    name = next(iter(groups)) if given.groups is None else given.groups
    if name not in groups:
        raise UserError(f"--groups is {name}: the run has {', '.join(groups)}.")
    task = groups[name]
    principal = None
    if (run_.run_dir / "disentangle" / "codes").is_dir():
        principal = run_.codes.factor(run_.codes.info.principal)
    arms = [run_.choose(given.arm, None)[0]] if given.arm or not output else list(run_.arms)
    sheets = {}
    for arm in arms:
        val, test = (run_.together(arm, given.seeds, split) for split in ("val", "test"))
        sheets[arm] = group_sheet(val, test, task, principal)
    refitted = find_refitted(run_.run_dir, arms)
    for line in _notes(sheets, refitted):
        print(line, file=sys.stderr)
    if output is None:
        ((arm, sheet),) = sheets.items()
        put_out(_table(f"{arm}, groups of {name}", sheet), None)
        return OK
    rows = [
        {"arm": arm, "refitted": arm in refitted, "groups": name, **row}
        for arm, sheet in sheets.items()
        for row in sheet.rows()
    ]
    write_csv(output, list(rows[0]), rows)
    print(f"{plural(len(rows), 'row')} of {plural(len(sheets), 'arm')}: {output}", file=sys.stderr)
    return OK


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="detaux groups",
        description="For whom the networks of a finished run fail: accuracy of each class in each "
        "discovered group on validation and test images, all seeds of an arm together, with Wilson "
        "intervals. The worst one is found on validation images and told of test images.",
    )
    parser.add_argument("run_dir", metavar="RUN", help="run folder")
    parser.add_argument("--arm", help="arm of the run; by default the main one, and all in a file")
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="SEED",
        help="seeds whose networks answer together; by default all",
    )  # fmt: skip
    parser.add_argument(
        "--groups", metavar="NAME",
        help="shortcut1 and so on for those of an alarm, task1 for those of the first task; by "
        "default the first there are",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="FILE",
        help=f"CSV file of all cells; by default the terminal shows {_ROWS}",
    )  # fmt: skip
    return parser


def _notes(sheets: dict[str, GroupSheet], refitted: set[str]) -> list[str]:
    """Say of which cells nothing can be found out, and which arms know the validation images."""
    notes = []
    without = max(int(((s.n[0] == 0) & (s.n[1] > 0)).sum()) for s in sheets.values())
    if without:
        notes.append(
            f"note: {plural(without, 'cell')} of a class and a group without a validation image "
            "can be neither the worst nor called failing: a larger val_share gives them some."
        )
    if refitted:
        notes.append(
            f"note: {', '.join(sorted(refitted))}: fitted to the validation images, of which they "
            "say too much good; go by the test images."
        )
    return notes


def _table(arm: str, sheet: GroupSheet) -> Table:
    """Lay out the cells for the terminal, the lowest first."""
    rows, worst = sheet.rows(), sheet.worst_row()
    title = f"{arm}: {percent(sheet.accuracy[1])} of the test images are told right"
    if worst is not None:
        title += (
            f", {percent(worst['test_accuracy'])} "
            f"({range_text(worst['test_low'], worst['test_high'])}) of {worst['class']} in "
            f"{worst['group']}, which validation images say is the worst"
        )
    table = Table(title=Text(title), title_justify="left")
    for head in ("class", "group"):
        table.add_column(head)
    for head in ("train", "val", "right", "95 % CI", "test", "right", "95 % CI", "gap", ""):
        table.add_column(head, justify="right")
    for row in rows[:_ROWS]:
        cells = [short_name(row["class"], _NAME), row["group"], _count(row["train_images"])]
        for part in ("val", "test"):
            cells.append(_count(row[f"{part}_images"]))
            if row[f"{part}_accuracy"] is None:
                cells += ["", ""]
                continue
            ends = (row[f"{part}_low"], row[f"{part}_high"])
            cells += [f"{100 * row[f'{part}_accuracy']:.1f}", f"{100 * ends[0]:.0f} to "
                      f"{100 * ends[1]:.0f}"]  # fmt: skip
        gap = row["test_gap"]
        cells += ["" if gap is None else points(gap), "fails" if row["failing"] else ""]
        table.add_row(*map(Text, cells))
    if len(rows) > _ROWS:
        table.caption = f"{_ROWS} of {len(rows):,} cells; --output writes all"
    return table


def _count(n: Any) -> str:
    return "" if n is None else f"{n:,}"
