"""Which pixel values become 0 and 255: one rule for all images of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError

DEPTHS = (8, 10, 12, 14, 16)
"""Bits of the pixels that cameras and microscopes write to files of 16 bits or more."""


class Range(NamedTuple):
    """The least and the greatest value of pixels."""

    least: float
    most: float

    def __str__(self) -> str:
        return " to ".join(self.ends)

    @property
    def ends(self) -> tuple[str, str]:
        """Both as text."""
        return f"{self.least:.10g}", f"{self.most:.10g}"


WHOLE = Range(0, 0xFFFF)
"""All that 16 bits hold."""
UNIT = Range(0, 1)
"""What floating-point pixels are in, unless it is said."""


class Deep(NamedTuple):
    """What one image, or block of them, of more than 8 bits holds.

    Args:
        values: The least and the greatest pixel.
        floats: Whether they are floating-point.
        before: Bits that were taken for its range before there was one rule for a data set; 0
            where it was refused, or read as its own negative.
        name: What it is called, for messages.
    """

    values: Range
    floats: bool
    before: int
    name: str = ""


@dataclass(frozen=True)
class DeepPixels:
    """What the images of a data set that have more than 8 bits hold.

    Args:
        n: How many there are.
        integers: Least and greatest of the integers; None without any.
        floats: Likewise of the floating-point ones.
        before: All that `Deep.before` says.
        names: The image of the greatest absolute value of the integers, and of the floats.
    """

    n: int = 0
    integers: Range | None = None
    floats: Range | None = None
    before: tuple[int, ...] = ()
    names: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, found: Iterable[Deep], n: int | None = None) -> Self:
        """Join what images, or blocks of `n` images together, hold."""
        parts = list(found)
        ranges: list[Range | None] = []
        names = []
        for floats in (False, True):
            own = [part for part in parts if part.floats == floats]
            least = min((part.values.least for part in own), default=0)
            most = max((part.values.most for part in own), default=0)
            ranges.append(Range(least, most) if own else None)
            far = max(own, key=lambda part: max(map(abs, part.values)), default=None)
            names.append(far.name if far is not None else "")
        before = tuple(sorted({part.before for part in parts}))
        return cls(
            len(parts) if n is None else n, ranges[0], ranges[1], before, (names[0], names[1])
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {
            "n": self.n,
            "integers": self.integers,
            "floats": self.floats,
            "before": list(self.before),
            "names": list(self.names),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Undo `as_json`."""
        ranges = [None if value[k] is None else Range(*value[k]) for k in ("integers", "floats")]
        return cls(
            int(value["n"]), ranges[0], ranges[1], tuple(value["before"]),
            (str(value["names"][0]), str(value["names"][1])),
        )  # fmt: skip


@dataclass(frozen=True)
class Levels:
    """How pixels of more than 8 bits become bytes, the same for all images of a data set.

    Args:
        integers: What of the integers becomes 0 and 255.
        floats: What of the floating-point pixels becomes 0 and 255.
        as_before: Whether the bytes are those of before there was one rule for a data set.
    """

    integers: Range = WHOLE
    floats: Range = UNIT
    as_before: bool = True

    def to_uint8(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Scale pixels; what lies outside the range is clipped to it."""
        floats = values.dtype.kind == "f"
        least, most = self.floats if floats else self.integers
        bits = _bits(least, most)
        if not floats and bits is not None:
            whole = values.astype(np.int32 if values.itemsize < 4 else np.int64, copy=False)
            kept: NDArray[np.uint8] = (np.clip(whole, 0, int(most)) >> (bits - 8)).astype(np.uint8)
            return kept
        # float32 holds integers up to 24 bits only; floats in [0, 1] keep their own precision.
        wide = values if floats and (least, most) == UNIT else values.astype(np.float64)
        shares = (np.clip(wide, least, most) - least) / (most - least)
        scaled: NDArray[np.uint8] = np.rint(shares * 255.0).astype(np.uint8)
        return scaled


def check_value_range(given: Sequence[float] | None) -> Range | None:
    """Return a range that the user gives.

    Raises:
        ValueError: If it is none.
    """
    if given is None:
        return None
    values = tuple(given)
    if len(values) != 2 or not all(map(isfinite, values)) or values[0] >= values[1]:
        raise ValueError(
            f"value_range is {list(values)}: give the least and the greatest pixel, such as "
            "[0, 4095], or null to have it found."
        )
    return Range(*(int(value) if float(value).is_integer() else value for value in values))


def find_levels(deep: DeepPixels, given: Range | None, where: str) -> Levels:
    """Apply the rule: the range of integers is that of the fewest bits which hold all of them.

    Args:
        deep: What the images hold.
        given: The range that the user gives; None to have it found.
        where: What the images are of, for messages.

    Raises:
        UserError: If the values tell no range, or one is given and there is nothing to apply it to.
    """
    if given is not None:
        if not deep.n:
            raise UserError(
                f"value_range is {[*given]}, but all images of {where} have 8 bits, whose range is "
                "always 0 to 255: leave it out."
            )
        return Levels(given, given, as_before=False)
    integers, floats = deep.integers, deep.floats
    if floats is not None and not 0 <= floats.least <= floats.most <= 1:
        raise _untold(where, "floating-point pixels", floats, deep.names[1], "only 0 to 1 is told")
    if integers is None:
        return Levels(as_before=0 not in deep.before)
    if not 0 <= integers.least <= integers.most <= 0xFFFF:
        raise _untold(where, "pixels", integers, deep.names[0], "only 0 to 65535 is told")
    bits = next(bits for bits in DEPTHS if integers.most < 1 << bits)
    return Levels(Range(0, (1 << bits) - 1), as_before=set(deep.before) <= {bits})


def _untold(where: str, what: str, found: Range, name: str, why: str) -> UserError:
    return UserError(
        f"{where} has {what} from {found}{f' (in {name})' if name else ''}, which tell no range "
        f"({why}): set value_range to what becomes black and white, such as "
        f"[{', '.join(found.ends)}]; what lies outside is clipped."
    )


def _bits(least: float, most: float) -> int | None:
    """Return the bits of a range that is whole; None for another one."""
    return next((bits for bits in DEPTHS if least == 0 and most == (1 << bits) - 1), None)
