"""Which images are asked about: files, folders, tables, and paths on standard input."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.csv_rows import CsvRows
from detaux_pl.data.image_files import walk_images
from detaux_pl.data.parquet import import_pyarrow

TABLES = (".csv", ".tsv", ".parquet")
"""What the names of tables end in."""
STDIN = "-"


def image_paths(given: Sequence[str], column: str) -> Iterator[Path]:
    """Give the paths of images one by one, however many they are.

    Folders are walked with all below them, a folder at a time, by name; hidden files and those
    that are no images by their names are left out. Paths in tables start from the table's folder.

    Args:
        given: Files, folders, tables (`.csv`, `.tsv`, `.parquet`), or `-` for standard input.
        column: Column of a table that holds the paths.

    Raises:
        UserError: If something does not exist, holds no image or lacks the column. What is wrong
            with what was named is said before the first path is given.
    """
    parts = [_open(text, column) for text in given]
    return chain.from_iterable(parts)


def count(given: Sequence[str], column: str) -> int | None:
    """Return how many paths `image_paths` will give; None where nobody knows before the end."""
    if STDIN in given:
        return None
    return sum(1 for _ in image_paths(given, column))


def _open(text: str, column: str) -> Iterator[Path]:
    if text == STDIN:
        return (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
    path = Path(text)
    if path.is_dir():
        images = (place / name for place, names, _ in walk_images(path) for name in names)
        return _first(images, f"there is no image in {path}: give images, or another folder.")
    if not path.exists():
        raise UserError(f"{path} does not exist: give images, folders, tables or -.")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        rows = _parquet(path, column) if suffix == ".parquet" else _text(path, column)
        return _first(rows, f"{path} lists no image: give a table with a row for each.")
    return iter([path])


def _first(paths: Iterator[Path], otherwise: str) -> Iterator[Path]:
    """Look whether there is any, and give all."""
    for path in paths:
        return chain([path], paths)
    raise UserError(otherwise)


def _text(path: Path, column: str) -> Iterator[Path]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = CsvRows(handle)
            reader = iter(rows)
            header = next(reader, [])
            _refuse_column(path, column, header)
            at = header.index(column)
            for row in reader:
                if len(row) != len(header):
                    raise UserError(
                        f"{path}, line {rows.line}: there are {len(row)} values, but "
                        f"{len(header)} columns in the header: mend the line."
                    )
                if row[at]:
                    yield path.parent / row[at]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table in UTF-8 ({error}): save it as CSV.") from None


def _parquet(path: Path, column: str) -> Iterator[Path]:
    _, parquet = import_pyarrow(str(path), "save it as CSV")
    try:
        table = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no parquet file ({error}).") from None
    _refuse_column(path, column, table.schema_arrow.names)
    for batch in table.iter_batches(columns=[column]):
        for text in batch.column(0).to_pylist():
            if text:
                yield path.parent / str(text)


def _refuse_column(path: Path, column: str, known: Sequence[str]) -> None:
    if column not in known:
        raise UserError(
            f"{path} has no column {column!r}: say --column, one of {', '.join(known) or 'none'}."
        )
