"""What a config may not bring along: code to be called."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from detaux_pl.artifacts.errors import UserError

_CLASSES = ("detaux_pl.", "lightning.", "torch.")
_FUNCTIONS = ("detaux_pl.", "lightning.", "torch.optim.")
"""Packages whose classes, with those derived from them, and functions a config may name."""


def refuse_code(config: Any, path: str) -> None:
    """Refuse classes and functions that are of no type of ours or of Lightning.

    The parser builds in a typed place what is of the type alone. In one of a `Callable`, such as
    every argument of Lightning's `LambdaCallback`, it builds whatever class it is told of. What a
    class of the user's takes, it answers for itself.

    Args:
        config: Resolved settings, whose classes the parser has imported.
        path: Their dotted name.

    Raises:
        UserError: If one names other code.
    """
    parts: Any = enumerate(config) if isinstance(config, list) else ()
    if isinstance(config, Mapping):
        cls = _named(config.get("class_path"))
        if cls is not None and not cls.__module__.startswith(_CLASSES) and _is_known(cls):
            return
        parts = config.items()
    for name, value in parts:
        code = _named(value)
        if code is not None and not _is_known(code):
            where = path if name in ("init_args", "class_path") else f"{path}.{name}"
            raise UserError(
                f"{where} is {value!r}, code that would be called: a config may name models, data "
                "sets, callbacks and loggers. Leave it out, or write a callback class of your own "
                "and name that."
            )
        refuse_code(value, path if name == "init_args" else f"{path}.{name}")


def _is_known(code: Any) -> bool:
    if inspect.isclass(code):
        return any(f"{base.__module__}.".startswith(_CLASSES) for base in code.__mro__)
    return f"{getattr(code, '__module__', '')}.".startswith(_FUNCTIONS)


def _named(value: Any) -> Any:
    """Return the class or function whose path a value is, if its module is imported."""
    module, _, name = value.rpartition(".") if isinstance(value, str) else ("", "", "")
    owner: Any = sys.modules.get(module)
    if owner is None and "." in module:  # a method, or a class in a class
        owner = getattr(sys.modules.get(module.rpartition(".")[0]), module.rpartition(".")[2], None)
    code = getattr(owner, name, None) if owner is not None else None
    return code if callable(code) else None
