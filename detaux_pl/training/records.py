"""The CSV record of a training that may have been interrupted."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from detaux_pl.artifacts.files import replacing


def next_part(folder: Path) -> str:
    """Name the part that a new process of the stage writes, after those of killed ones."""
    return f"part{len(list((folder / 'logs').glob('part*')))}"


def epochs_recorded(folder: Path) -> int:
    """How many epochs of a training that is not complete the processes before have finished."""
    last = -1
    for path in (folder / "logs").glob("part*/metrics.csv"):
        with path.open(encoding="utf-8", errors="replace", newline="") as handle:
            epochs = [str(row.get("epoch")) for row in csv.DictReader(handle)]
        last = max([last, *(int(epoch) for epoch in epochs if epoch.isdigit())])
    return last + 1  # they are counted from 0


def merge_records(folder: Path) -> None:
    """Join the parts into `metrics.csv`, in the order of the steps, and remove them.

    Where a resumed process did a step again, its row counts. A row that a killed process left
    unfinished does not.
    """
    rows: dict[tuple[int, int, frozenset[str]], dict[str, str]] = {}
    columns: dict[str, None] = {"epoch": None, "step": None}
    parts = sorted((folder / "logs").glob("part*"), key=lambda path: int(path.name[4:]))
    # An earlier process may have merged its parts and been killed right after.
    paths = [folder / "metrics.csv", *(part / "metrics.csv" for part in parts)]
    for path in (path for path in paths if path.is_file()):
        # A killed process may have left anything at its end: a row of it does not count.
        with path.open(encoding="utf-8", errors="replace", newline="") as handle:
            for row in csv.DictReader(handle):
                if not str(row.get("epoch")).isdigit() or not str(row.get("step")).isdigit():
                    continue
                filled = {name: value for name, value in row.items() if name and value}
                columns.update(dict.fromkeys(filled))
                # Training and validation log rows of their own for the same step.
                kind = frozenset(filled) - {"epoch", "step"}
                rows[int(row["epoch"]), int(row["step"]), kind] = filled
    with (
        replacing(folder / "metrics.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as handle,
    ):
        writer = csv.DictWriter(handle, list(columns))
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows, key=lambda key: key[:2]))
    shutil.rmtree(folder / "logs", ignore_errors=True)
