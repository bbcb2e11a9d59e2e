"""Columns of labels as factors: values of any kind, numbered."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_VALUES = 1000


class LabelColumn(NamedTuple):
    """A factor made of a column.

    Args:
        codes: Number of each row's value, int64, shape (N,); -1 where it is unknown.
        values: The values as text, in their order.
    """

    codes: NDArray[np.int64]
    values: tuple[str, ...]

    @property
    def informative(self) -> bool:
        """Whether it can serve the evaluation, unasked.

        It has 2 to 1,000 values, and fewer than half of the rows have a value of their own: what
        has more is an identifier.
        """
        known = self.codes[self.codes >= 0]
        alone = int((np.bincount(known) == 1).sum())
        return 2 <= len(self.values) <= _MOST_VALUES and 2 * alone < len(known)

    def known_by(self, labelled: NDArray[np.bool_]) -> LabelColumn:
        """Return the factor with the values of the labelled rows alone; others are unknown."""
        kept = np.unique(self.codes[labelled])
        kept = kept[kept >= 0]
        number = np.full(len(self.values) + 1, -1)  # the last place is where -1 leads
        number[kept] = np.arange(len(kept))
        return LabelColumn(number[self.codes], tuple(self.values[k] for k in kept.tolist()))


def number_values(column: NDArray[np.generic]) -> LabelColumn:
    """Number the distinct values of integers, truth values, strings or finite floats, ascending.

    Floats that are all whole are integers.

    Raises:
        UnicodeDecodeError: If bytes are not UTF-8.
    """
    if column.dtype.kind == "f" and (column == np.rint(column)).all():
        column = column.astype(np.int64)
    values, codes = np.unique(column, return_inverse=True)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    return LabelColumn(codes.astype(np.int64), tuple(str(value) for value in values.tolist()))
