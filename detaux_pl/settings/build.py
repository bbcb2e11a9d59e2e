"""Classes from their names, objects from their part of a config."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pydoc import locate
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict, cast

from jsonargparse import ArgumentParser

from detaux_pl.settings.numbers import KeepsIntegers
from detaux_pl.settings.words import as_words, plain


class Spec(TypedDict):
    """What an object is built from, in a config."""

    class_path: str
    init_args: NotRequired[dict[str, Any]]


class DataConfig(TypedDict):
    """The `config.yaml` of a stage that trained, as far as its data are read."""

    data: Spec


class StageConfig(DataConfig):
    """The same with its model."""

    model: Spec


@cache
def constructor_defaults(cls: Any) -> Mapping[str, Any]:
    """Return what a class can be built with, by name: the default, None where there is none.

    `inspect.signature` ends at the `**kwargs` that a constructor hands on to its base's.
    """
    parser = ArgumentParser(exit_on_error=False)
    names = parser.add_class_arguments(cls, "built")
    defaults = {name.removeprefix("built."): parser.get_default(name) for name in names}
    return MappingProxyType(defaults)


def build(kind: type, config: Mapping[str, Any], **filled: Any) -> Any:
    """Build an object from its part of a stage's config.

    Args:
        kind: Base class of what is built.
        config: `class_path` and `init_args`.
        filled: Arguments that the command line fills in, used where the class has them.

    Raises:
        ValueError: If the class refuses its arguments.
    """
    cls = locate(config["class_path"])
    if not isinstance(cls, type) or not issubclass(cls, kind):
        raise ValueError(
            f"class_path is {config['class_path']!r}, which is no {kind.__name__}: give the path "
            "of one."
        )
    known = constructor_defaults(cast(Any, cls))
    # jsonargparse parses the items of a list in place.
    init_args = copy.deepcopy(config.get("init_args", {}))
    init_args |= {name: value for name, value in filled.items() if name in known}
    parser = _builder(kind)
    value = {"built": {"class_path": config["class_path"], "init_args": init_args}}
    return parser.instantiate(plain(parser.parse_object(as_words(value))))["built"]


@cache
def _builder(kind: type) -> KeepsIntegers:
    parser = KeepsIntegers(exit_on_error=False)
    parser.add_subclass_arguments(kind, "built")
    return parser


def import_room(room: str) -> None:
    """Import every module of a room, so that its classes are known by their short names."""
    package = importlib.import_module(f"detaux_pl.{room}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
