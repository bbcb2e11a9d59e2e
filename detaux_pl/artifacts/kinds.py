"""What a file of JSON or YAML is to hold, said as types and checked where it is read."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

_WORDS = {
    str: "text", bool: "true or false", int: "a whole number", float: "a number",
    NoneType: "null", dict: "names with values", list: "a list",
}  # fmt: skip


def misfit(value: Any, kind: Any, where: str = "") -> str | None:
    """Say where a value is not of a kind.

    Args:
        value: What JSON or YAML gave.
        kind: `str`, `int`, `float` (a whole number will do), `bool`, `None`, `Any`, a `Literal`,
            a list or a dictionary of text with such contents, a union of these, or a `TypedDict`:
            what that does not name may be there, too.
        where: Dotted name of the value.

    Returns:
        What is wrong, with its place; None where nothing is.

    Example:
        >>> misfit({"seeds": [0, "x"]}, dict[str, list[int]])
        "seeds.1 is 'x', not a whole number"
    """
    if kind is Any:
        return None
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        wrong = [misfit(value, each, where) for each in inner]
        if None in wrong:
            return None
        # Of several kinds, that which the value is like says more than that it is none of them.
        like = [w for w, each in zip(wrong, inner, strict=True) if _is_like(value, each)]
        return like[0] if like else _told(value, where, " or ".join(map(_words, inner)))
    if not _is_like(value, kind):
        return _told(value, where, _words(kind))
    if is_typeddict(kind):
        parts = []
        # `__required_keys__` is wrong where annotations are text.
        for name, of in get_type_hints(kind, include_extras=True).items():
            optional = get_origin(of) is NotRequired
            if name in value:
                parts.append((name, value[name], get_args(of)[0] if optional else of))
            elif not optional:
                return f"{_join(where, name)} is missing"
    elif origin is dict:
        parts = [(name, each, inner[1]) for name, each in value.items()]
        if not all(isinstance(name, str) for name in value):
            return _told(value, where, "names with values")
    else:
        parts = [(str(k), each, inner[0]) for k, each in enumerate(value)] if inner else []
        parts = parts if origin is list else []
    found = (misfit(each, of, _join(where, name)) for name, each, of in parts)
    return next((wrong for wrong in found if wrong is not None), None)


def _is_like(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind, whatever it contains."""
    origin = get_origin(kind) or (dict if is_typeddict(kind) else kind)
    if origin is Literal:
        return type(value) is str and value in get_args(kind)
    if origin in (int, float) and isinstance(value, bool):
        return False
    allowed = (int, float) if origin is float else origin if origin is not None else NoneType
    return isinstance(value, allowed)


def _told(value: Any, where: str, expected: str) -> str:
    given = repr(value)
    given = given if len(given) <= 40 else f"{given[:37]}..."
    return f"{where or 'the whole'} is {given}, not {expected}"


def _words(kind: Any) -> str:
    origin = get_origin(kind) or (dict if is_typeddict(kind) else kind)
    if origin is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return _WORDS[NoneType if origin is None else origin]


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
