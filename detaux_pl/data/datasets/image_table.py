"""Your own images, listed in a table with columns of labels."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import compress
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import LABELLED, SPLITS
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import as_path
from detaux_pl.data.correlation import Correlate
from detaux_pl.data.csv_rows import CsvRows
from detaux_pl.data.factor_dataset import existing_file
from detaux_pl.data.image_files import FileIndex, ImageFiles, is_image, name_some
from detaux_pl.data.label_column import LabelColumn
from detaux_pl.data.parquet import import_pyarrow
from detaux_pl.data.splits import LeftOut, column_split, set_apart

_TRAIN = SPLITS.index("train")
_TEXT = (".csv", ".tsv", ".txt")
_COLUMNS = ("image_column", "principal", "split_column", "split_by")
"""The settings that name one column."""


class ImageTable(ImageFiles):
    """Images listed in a CSV or parquet table, one per row, with columns of labels.

    The values of a column are numbered in order: as numbers where all are, otherwise as text. The
    ids are the paths as the table has them, with slashes. Paths start from the folder of the
    table, or from `root`; they may lead out of it, or be absolute, and the suffix of an image may
    be left out where one file fits. A CSV file is UTF-8 with a header and separated by commas,
    semicolons or tabs; parquet needs the extra `parquet`.

    Args:
        path: The table, ending in `.csv`, `.tsv`, `.txt` or `.parquet`.
        principal: Name of the column of the principal labels.
        image_column: Name of the column of image paths.
        split_column: Name of the column of splits (`train`, `val` or `test`), where there is one;
            None to leave it aside. Splits may be 0, 1 and 2, too. Those that it lacks are drawn
            from the training images, stratified by the principal label.
        columns: Names of further columns of labels, which serve only the evaluation; None for
            every complete one of 2 to 1,000 values of which fewer than half of the rows have one
            for themselves.
        root: Folder that the paths start from; None for the folder of the table.
        leave_out: Splits whose rows are left aside, such as `[test]` where they have no labels;
            None for no split.
        unlabelled: Whether rows without a principal label are taken, which clusters are found
            among too, whatever their split; their other labels may be missing. False to refuse
            them.
        split_by: Name of a column, of which no value is in two splits: of the person, the sender or
            the object that is photographed, so that the test is of others than the training. Rows
            without a principal label and of a value that is held out are left aside. None to
            draw each image by itself.
        correlate: Two columns of labels, of which one shall go with the other in train and val,
            for studies of shortcuts: only images that make it so are kept, of the splits that
            there are or are drawn. None to keep all.

    Raises:
        ValueError: If an argument is outside its range or a column is to be two things.
    """

    def __init__(
        self,
        path: Path | str,
        principal: str,
        image_column: str = "image",
        split_column: str | None = "split",
        columns: Sequence[str] | None = None,
        root: Path | str | None = None,
        image_size: int = 64,
        leave_out: Sequence[str] | None = None,
        unlabelled: bool = False,
        split_by: str | None = None,
        correlate: Correlate | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(principal, image_size, **kwargs)
        self.unlabelled = unlabelled
        self.split_by = split_by
        self.correlate = correlate
        self.leave_out = LeftOut(leave_out)
        path = Path(path)
        if path.suffix.lower() not in (*_TEXT, ".parquet"):
            raise ValueError(f"path is {path}: give a file ending in {', '.join(_TEXT)}, .parquet.")
        for name in (image_column, split_column):
            if name in (principal, *(columns or ())):
                raise ValueError(
                    f"the column {name!r} cannot hold labels: it is given as image_column or "
                    "split_column."
                )
        if split_by is not None and split_by in (principal, image_column, split_column):
            raise ValueError(
                f"split_by is {split_by!r}, which is the principal label, image_column or "
                "split_column: give the column of the source of an image."
            )
        if image_column == split_column:
            raise ValueError(f"image_column and split_column are both {image_column!r}.")
        self.path = path
        self.image_column = image_column
        self.split_column = split_column
        self.columns = columns
        self.root = as_path(root)

    @property
    def place(self) -> Path:
        """The table."""
        return self.path

    def read_index(self) -> FileIndex:
        """Read the table and look for its images.

        Raises:
            UserError: If the table is missing, damaged or empty, lacks a column or a label, or
                lists an image that does not exist or is there twice.
        """
        existing_file(self.path, "give the path of a CSV or parquet table.")
        read = _read_parquet if self.path.suffix.lower() == ".parquet" else _read_text
        table = self._without_left_out(read(self.path))
        paths = self._find(table)
        labelled = self._find_labelled(table)
        columns = {self.principal: self._read_labels(table, self.principal, labelled)}
        for name in self.columns if self.columns is not None else self._candidates(table, labelled):
            column = self._read_labels(table, name, labelled)
            if self.columns is not None or column.informative:
                columns[name] = column
        ids = np.array([_slashed(text) for text in table.columns[self.image_column]], dtype=np.str_)
        order = np.argsort(ids)
        splits = self._read_splits(table, labelled)[order]
        factors = np.stack([column.codes for column in columns.values()], axis=1)[order]
        groups = None
        if self.split_by is not None:
            groups = self._read_groups(table, self.split_by, labelled)[order]
        kept = self.draw_splits(splits, factors[:, 0], groups, repr(self.split_by))
        order, splits, factors = order[kept], splits[kept], factors[kept]
        sizes = tuple(len(column.values) for column in columns.values())
        if self.correlate is not None:
            rng = np.random.default_rng([self.seed, len(SPLITS)])
            drawn = self.correlate.draw(factors, tuple(columns), sizes, splits, rng)
            order, splits, factors = order[drawn], splits[drawn], factors[drawn]
        return FileIndex(
            paths=[paths[row] for row in order],
            ids=ids[order],
            splits=splits,
            factors=factors,
            names=tuple(columns),
            sizes=sizes,
            value_names={name: column.values for name, column in columns.items()},
        )

    def _without_left_out(self, table: _Table) -> _Table:
        """Drop the rows of splits that are left out."""
        if not self.leave_out:
            return table
        if self.split_column is None or self.split_column not in table.columns:
            self.leave_out.check((), f"{self.path}, without a column of splits,")
            return table
        texts = self._complete(table, self.split_column, "split", self._find_labelled(table))
        self.leave_out.check(sorted({*texts} - {""}), str(self.path))
        kept = [row for row, text in enumerate(texts) if text not in self.leave_out]
        return _Table(
            {name: [values[row] for row in kept] for name, values in table.columns.items()},
            [table.places[row] for row in kept],
            table.nested,
        )

    def _find(self, table: _Table) -> list[Path]:
        """Return the file of each row."""
        root = self.root if self.root is not None else self.path.parent
        texts = self._complete(table, self.image_column, "path")
        listed: dict[Path, dict[str, list[str]]] = {}
        paths = [_existing(root, text) or self._completed(root, text, listed) for text in texts]
        absent = [
            f"{where}: {root / text}"
            for where, text, path in zip(table.places, texts, paths, strict=True)
            if path is None
        ]
        if absent:
            raise UserError(
                f"{self.path} lists {len(absent):,} of {len(texts):,} images that do not exist "
                f"({name_some(absent)}): mend the paths, or give the folder they start from as "
                "root."
            )
        seen: dict[str, str] = {}
        found = [path for path in paths if path is not None]
        for where, path in zip(table.places, found, strict=True):
            file = os.path.normpath(path)
            if file in seen:
                raise UserError(
                    f"{self.path} lists {path} twice, in {seen[file]} and {where}: remove one."
                )
            seen[file] = where
        return found

    def _completed(
        self, root: Path, text: str, listed: dict[Path, dict[str, list[str]]]
    ) -> Path | None:
        """Return the image of a path without its suffix.

        Args:
            root: Folder that the path starts from.
            text: The path.
            listed: Names of the images of each folder by their stems, which are filled in.

        Raises:
            UserError: If several would fit.
        """
        path = root / _slashed(text)
        if path.parent not in listed:
            stems: dict[str, list[str]] = {}
            if path.parent.is_dir():
                for name in sorted(os.listdir(path.parent)):
                    if is_image(name):
                        stems.setdefault(Path(name).stem, []).append(name)
            listed[path.parent] = stems
        names = listed[path.parent].get(path.name, [])
        if len(names) > 1:
            raise UserError(
                f"{self.path} lists {text}, which may be {' or '.join(names)}: give the suffix."
            )
        return path.with_name(names[0]) if names else None

    def _find_labelled(self, table: _Table) -> NDArray[np.bool_]:
        """Say of each row whether it has a principal label; all of them, unless asked."""
        texts = table.columns.get(self.principal) if self.unlabelled else None
        return np.array([bool(text) for text in texts or table.places])

    def _candidates(self, table: _Table, labelled: NDArray[np.bool_]) -> list[str]:
        """Return the complete columns that could be labels, but for the principal one."""
        others = (self.image_column, self.split_column, self.principal)
        return [
            name
            for name, texts in table.columns.items()
            if name not in others and all(compress(texts, labelled))
        ]

    def _read_labels(self, table: _Table, name: str, labelled: NDArray[np.bool_]) -> LabelColumn:
        texts = self._complete(table, name, "label", labelled)
        values = _ordered(set(compress(texts, labelled)))
        number = {value: code for code, value in enumerate(values)}
        # Values that no labelled row has are unknown.
        codes = np.array([number.get(text, -1) for text in texts], dtype=np.int64)
        return LabelColumn(codes, tuple(values))

    def _read_groups(
        self, table: _Table, name: str, labelled: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Number the values of the column that splits are drawn by; -1 where there is none."""
        texts = np.array(self._complete(table, name, "value", labelled), dtype=np.str_)
        groups = np.unique(texts, return_inverse=True)[1].astype(np.int64)
        groups[texts == ""] = -1
        return groups

    def _read_splits(self, table: _Table, labelled: NDArray[np.bool_]) -> NDArray[np.int8]:
        name = self.split_column
        splits = np.full(len(table.places), _TRAIN, dtype=np.int8)
        if name is None or (name == "split" and name not in table.columns):
            set_apart(splits, labelled, str(self.path), self.principal)
            return splits
        texts = self._complete(table, name, "split", labelled)
        for where, text, has_label in zip(table.places, texts, labelled, strict=True):
            if has_label and column_split(text) is None:
                raise UserError(
                    f"{self.path}, {where}: the split {text!r} is none of {', '.join(LABELLED)}, "
                    f"0, 1, 2: leave it out with leave_out: [{text}], or set split_column to null "
                    "if the column means something else."
                )
        rows = np.flatnonzero(labelled)
        splits[rows] = np.array([column_split(texts[row]) for row in rows], dtype=np.int8)
        if _TRAIN not in splits[rows] and rows.size:
            raise UserError(f"{self.path} has no row whose {name!r} is train: add some.")
        set_apart(splits, labelled, str(self.path), self.principal)
        return splits

    def _complete(
        self, table: _Table, name: str, what: str, rows: NDArray[np.bool_] | None = None
    ) -> list[str]:
        """Return a column that has something in every row, or in some rows."""
        if name not in table.columns:
            if name in table.nested:
                raise UserError(
                    f"column {name!r} of {self.path} holds no {what} but nested values, as images "
                    "are stored by Hugging Face: read it with --dataset HuggingFace --dataset.path "
                    f"{self.path} --dataset.principal {self.principal}."
                )
            close = get_close_matches(name, table.columns, 1)
            raise UserError(
                f"{self.path} has no column {name!r}"
                f"{f', did you mean {close[0]!r}?' if close else ''}: it has "
                f"{', '.join(map(repr, table.columns))}. Give another as {self._setting(name)}."
            )
        texts = table.columns[name]
        asked = [True] * len(texts) if rows is None else rows.tolist()
        places = zip(table.places, texts, asked, strict=True)
        empty = [where for where, text, ask in places if ask and not text]
        if empty:
            without = " With unlabelled: true clusters are found among them, too."
            raise UserError(
                f"{self.path} has no {what} in column {name!r} of {len(empty):,} "
                f"row{'s' * (len(empty) > 1)} ({name_some(empty)}): fill it in or remove them"
                f"{self._only_split(table, texts) if what == 'label' else ''}."
                f"{without if name == self.principal else ''}"
            )
        return texts

    def _setting(self, column: str) -> str:
        """Return the setting that names a column."""
        named = (setting for setting in _COLUMNS if getattr(self, setting) == column)
        return next(named, "columns")

    def _only_split(self, table: _Table, texts: Sequence[str]) -> str:
        """Say how to leave out the split that alone lacks labels."""
        splits = table.columns.get(self.split_column or "", [])
        lacking = {split for split, text in zip(splits, texts, strict=False) if not text}
        if len(lacking) != 1 or column_split(name := lacking.pop() or "train") == _TRAIN:
            return ""
        return f", or leave the split out with leave_out: [{name}]"


class _Table(NamedTuple):
    """A table as text; what is missing is empty.

    Args:
        columns: Values of each column by its name.
        places: Where each row is, for messages.
        nested: Names of columns that are no text, such as stored images.
    """

    columns: dict[str, list[str]]
    places: list[str]
    nested: tuple[str, ...] = ()


def _read_text(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse(path, file)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start:,} of it): save it as CSV in UTF-8."
        ) from None


def _parse(path: Path, file: Iterator[str]) -> _Table:
    reader = CsvRows(file)
    rows: list[list[str]] = []
    places: list[str] = []
    try:
        for row in reader:
            if rows and len(row) != len(rows[0]):
                raise UserError(
                    f"{path}, line {reader.line}: there are {len(row)} values, but "
                    f"{len(rows[0])} columns in the header: mend the line."
                )
            rows.append(row)
            places.append(f"line {reader.line}")
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line}: this is no proper CSV ({error}): mend the line."
        ) from None
    if len(rows) < 2:
        raise UserError(f"{path} has no row: give a table with a header and a row per image.")
    header = rows[0]
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise UserError(f"{path} has two columns {min(twice)!r}: rename one.")
    columns = zip(*rows[1:], strict=True)
    return _Table(
        {name: list(texts) for name, texts in zip(header, columns, strict=True)}, places[1:]
    )


def _read_parquet(path: Path) -> _Table:
    arrow, parquet = import_pyarrow(str(path), "save it as CSV")
    try:
        schema = parquet.read_schema(path)
        # Images and the like are neither paths nor labels.
        names = [
            name
            for name, kind in zip(schema.names, schema.types, strict=True)
            if not arrow.types.is_nested(kind) and not arrow.types.is_binary(kind)
        ]
        table = parquet.read_table(path, columns=names)
        columns = {name: [_as_text(value) for value in table[name].to_pylist()] for name in names}
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        what = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as parquet ({what}): save it anew.") from None
    if not table.num_rows:
        raise UserError(f"{path} has no row: give a table with a row per image.")
    nested = tuple(name for name in schema.names if name not in names)
    return _Table(columns, [f"row {row}" for row in range(table.num_rows)], nested)


def _as_text(value: object) -> str:
    missing = value is None or value != value  # NaN
    return "" if missing else str(value).strip()


def _existing(root: Path, text: str) -> Path | None:
    """Return the file, whichever slashes and form of its accents the table has."""
    for spelling in (text, _slashed(text)):
        for form in (spelling, *(unicodedata.normalize(f, spelling) for f in ("NFC", "NFD"))):
            if os.path.isfile(root / form):  # Path.is_file raises for a name that is too long
                return root / form
    return None


def _slashed(text: str) -> str:
    return text.replace("\\", "/")


def _ordered(values: Iterable[str]) -> list[str]:
    """Sort as numbers where all are, otherwise as text."""
    texts = sorted(values)
    try:
        numbers = {text: float(text) for text in texts}
    except ValueError:
        return texts
    return sorted(texts, key=numbers.__getitem__) if all(map(isfinite, numbers.values())) else texts
