"""Predictions as tables, a row an image, written as they come."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import IO, Any

from detaux_pl.data.parquet import import_pyarrow
from detaux_pl.inference.stream import Told

_PIECE = 8192
"""Rows of a group of a parquet file."""


def columns_of(tasks: Sequence[str], top_k: int) -> list[str]:
    """Return the names of the columns: path, class, probability, further classes, groups, error.

    Example:
        >>> columns_of(["principal", "auxiliary"], 2)  # doctest: +NORMALIZE_WHITESPACE
        ['path', 'class', 'probability', 'class_2', 'probability_2', 'group', 'group_probability',
         'error']
    """
    names = ["path", "class", "probability"]
    for k in range(2, top_k + 1):
        names += [f"class_{k}", f"probability_{k}"]
    for task in tasks[1:]:
        group = task.replace("auxiliary", "group")
        names += [group, f"{group}_probability"]
    return [*names, "error"]


def row_of(told: Told, tasks: Sequence[str], top_k: int) -> list[Any]:
    """Return the cells of one image; None where there is nothing to say."""
    cells: list[Any] = [str(told.path)]
    if told.error is not None:
        n_empty = len(columns_of(tasks, top_k)) - 2
        return [*cells, *[None] * n_empty, told.error]
    first, *others = tasks
    for guess in told.guesses[first]:
        cells += [guess.name, guess.probability]
    cells += [None] * (2 * (top_k - len(told.guesses[first])))
    for task in others:
        cells += [told.guesses[task][0].name, told.guesses[task][0].probability]
    return [*cells, None]


class Writer(ABC):
    """A table that is written row by row.

    Args:
        handle: Where to, opened for bytes.
        columns: Names of the columns; those that end in `probability` or such are numbers.
    """

    def __init__(self, handle: IO[bytes], columns: Sequence[str]) -> None:
        self.handle = handle
        self.columns = columns

    @abstractmethod
    def write(self, row: Sequence[Any]) -> None:
        """Add a row."""

    def close(self) -> None:  # noqa: B027  a hook
        """Write what is pending."""


class _Lines:
    """A text file to the csv module: each row as bytes, at once."""

    def __init__(self, handle: IO[bytes]) -> None:
        self.handle = handle

    def write(self, text: str) -> int:
        # A name that is no UTF-8 keeps its bytes.
        return self.handle.write(text.encode("utf-8", "surrogateescape"))


class CsvWriter(Writer):
    """Comma-separated values, RFC 4180, probabilities with 6 digits."""

    def __init__(self, handle: IO[bytes], columns: Sequence[str]) -> None:
        super().__init__(handle, columns)
        self.rows = csv.writer(_Lines(handle), lineterminator="\n")
        self.rows.writerow(columns)

    def write(self, row: Sequence[Any]) -> None:
        """Add a row."""
        self.rows.writerow([f"{x:.6f}" if isinstance(x, float) else x for x in row])


class JsonLinesWriter(Writer):
    """A JSON object a line, without what there is nothing to say of."""

    def write(self, row: Sequence[Any]) -> None:
        """Add a row."""
        value = {
            name: round(x, 6) if isinstance(x, float) else x
            for name, x in zip(self.columns, row, strict=True)
            if x is not None
        }
        line = json.dumps(value, ensure_ascii=False)
        self.handle.write(f"{line}\n".encode("utf-8", "surrogateescape"))


class ParquetWriter(Writer):
    """Parquet, in groups of rows."""

    def __init__(self, handle: IO[bytes], columns: Sequence[str]) -> None:
        super().__init__(handle, columns)
        arrow, parquet = import_pyarrow("the format parquet", "take CSV")
        kinds = [arrow.float32() if "probability" in name else arrow.string() for name in columns]
        self.schema = arrow.schema(list(zip(columns, kinds, strict=True)))
        self.arrow = arrow
        self.file = parquet.ParquetWriter(handle, self.schema)
        self.pending: list[Sequence[Any]] = []

    def write(self, row: Sequence[Any]) -> None:
        """Add a row."""
        self.pending.append(row)
        if len(self.pending) >= _PIECE:
            self._flush()

    def close(self) -> None:
        """Write what is pending, and the index at the end."""
        self._flush()
        self.file.close()

    def _flush(self) -> None:
        if self.pending:
            whole = [
                self.arrow.array(values, kind)
                for values, kind in zip(
                    zip(*self.pending, strict=True), self.schema.types, strict=True
                )
            ]
            self.file.write_table(self.arrow.table(whole, schema=self.schema))
            self.pending = []


WRITERS: dict[str, type[Writer]] = {
    "csv": CsvWriter, "jsonl": JsonLinesWriter, "parquet": ParquetWriter,
}  # fmt: skip
"""The forms by name."""
