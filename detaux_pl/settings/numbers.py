"""Whole numbers that stay whole where a setting takes other numbers too."""

from __future__ import annotations

import functools
import operator
from types import UnionType
from typing import Any, Union, get_args, get_origin

from jsonargparse import ArgumentParser

_REBUILT = (list, dict, tuple, set, frozenset)
"""Generic types whose arguments are looked into."""


class KeepsIntegers(ArgumentParser):
    """A parser that reads 1 as 1, not as 1.0, wherever a type is a union with int and float.

    To Lightning 1 is one batch, and 1.0 all of them. jsonargparse tries the types of a union in
    their order, and that is not the one they are written in: `typing` keeps unions, and gives
    `Optional[Union[float, int]]` for `Optional[Union[int, float]]` if another package has asked for
    the former before. The parsers of nested classes are of this class too.
    """

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of a class, and put int before float in their types."""
        added: list[str] = super().add_class_arguments(*args, **kwargs)
        self._put_integers_first()
        return added

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument, and put int before float in its type."""
        if "type" in kwargs:
            kwargs["type"] = integers_first(kwargs["type"])
        return super().add_argument(*args, **kwargs)

    def _put_integers_first(self) -> None:
        for action in self._actions:
            if hasattr(action, "_typehint"):
                action._typehint = integers_first(action._typehint)


def integers_first(hint: Any) -> Any:
    """Return a type with int before float in all its unions, those within it too.

    Example:
        >>> integers_first(float | int | None)
        int | float | None
        >>> integers_first(dict[str, list[float | int]])
        dict[str, list[int | float]]
    """
    origin, given = get_origin(hint), get_args(hint)
    if origin not in (*_REBUILT, Union, UnionType):
        return hint
    args = tuple(integers_first(arg) for arg in given)
    if origin in _REBUILT:
        return (
            origin[args]
            if any(new is not old for new, old in zip(args, given, strict=True))
            else hint
        )
    if int in args and float in args and args.index(float) < args.index(int):
        rest = tuple(arg for arg in args if arg is not int)
        place = rest.index(float)
        args = (*rest[:place], int, *rest[place:])
    elif all(new is old for new, old in zip(args, given, strict=True)):
        return hint
    # `Union[args]` may be one that was asked for before.
    return functools.reduce(operator.or_, args)
