"""Numbers that no setting may have, whatever it is for."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from detaux_pl.artifacts.errors import UserError

LARGEST_SEED = 2**32 - 1
"""What the generators of numpy and of Lightning take."""


def refuse_seed(name: str, seed: int, further: int = 0) -> None:
    """Check a seed.

    Args:
        name: The setting.
        seed: Its value.
        further: How far beyond it the seeds go that are counted from it.

    Raises:
        UserError: If it, or one of these, is outside the range of seeds.
    """
    if seed < 0 or seed + further > LARGEST_SEED:
        least = f", for the last one is {further} more" if further else ""
        raise UserError(
            f"{name} is {seed}: give a whole number from 0 to {LARGEST_SEED - further}{least}."
        )


def refuse_not_finite(where: str, settings: Any, unbounded: Collection[str] = ()) -> None:
    """Check that no number in settings, at any depth, is NaN or infinite.

    Args:
        where: Dotted name of the settings.
        settings: The settings.
        unbounded: Names of those that may be infinite, as a bound that never binds.

    Raises:
        UserError: If one is.
    """
    for name, value in _numbers(where, settings):
        last = name.rsplit(".", 1)[-1]
        if not math.isfinite(value) and (math.isnan(value) or last not in unbounded):
            raise UserError(f"{name} is {value}: give a finite number.")


def _numbers(where: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield where, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(where if name == "init_args" else f"{where}.{name}", inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, inner in enumerate(value):
            yield from _numbers(f"{where}.{number}", inner)
