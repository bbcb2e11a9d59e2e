"""What may be meant: classes below a base, names like a given one."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any


def closest(name: str, allowed: Sequence[str]) -> str:
    """Return a `did you mean` for a name, or what is allowed."""
    match = difflib.get_close_matches(name, allowed, n=1)
    return f"did you mean {match[0]!r}?" if match else f"choose one of {', '.join(allowed)}."


def subclasses(cls: Any) -> Iterator[type]:
    """Give every class below `cls`."""
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def concrete_subclasses(cls: Any) -> Iterator[type]:
    """Give every class below `cls` that can be built."""
    return (child for child in subclasses(cls) if not inspect.isabstract(child))
