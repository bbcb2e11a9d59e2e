"""Rows of text files, whatever is between their cells."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain

_DELIMITERS = ",;\t"


class CsvRows:
    """The rows of a CSV file one by one, cells separated by commas, semicolons or tabs.

    Args:
        lines: The lines of the file, whose first names the columns.

    Raises:
        csv.Error: While it is read, at a row that is no proper CSV.

    Example:
        >>> list(CsvRows(iter(["image; label", "a.png; cat, small"])))
        [['image', 'label'], ['a.png', 'cat, small']]
    """

    def __init__(self, lines: Iterator[str]) -> None:
        first = next(lines, "")
        # The header tells: labels and paths, unlike names of columns, may hold any of them.
        bare = re.sub(r'"(?:[^"]|"")*"', "", first)
        mark = max(_DELIMITERS, key=bare.count)
        whole = chain([first], lines)
        self._reader = csv.reader(whole, delimiter=mark, skipinitialspace=True, strict=True)

    @property
    def line(self) -> int:
        """Number of the last line read, from 1."""
        return self._reader.line_num

    def __iter__(self) -> Iterator[list[str]]:
        """Give the cells of each row that has any, without the spaces around them."""
        return ([text.strip() for text in row] for row in self._reader if row)
