"""Problems of settings, each a line that says what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from inspect import isabstract
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse._typehints import ActionTypeHint

from detaux_pl.artifacts.errors import UserError
from detaux_pl.settings.choices import closest, concrete_subclasses

_LISTED = 16
"""Most names that a line lists."""


@dataclass(frozen=True)
class Problem:
    """Something given that does not fit.

    Args:
        key: Dotted name of the setting, without the `init_args` in it.
    """

    key: str


@dataclass(frozen=True)
class UnknownSetting(Problem):
    """A setting that its owner does not have.

    Args:
        owner: Name of the class that it was given to; None for a group or a command.
        known: What it has.
    """

    owner: str | None
    known: Sequence[str]

    def __str__(self) -> str:
        above, _, name = self.key.rpartition(".")
        if not above:
            return f"there is no setting {name!r}: {self._hint(name)}"
        owner = f"{above} ({self.owner})" if self.owner else above
        return f"{owner} has no setting {name!r}: {self._hint(name)}"

    def _hint(self, name: str) -> str:
        elsewhere = [known for known in self.known if known.endswith(f".{name}")]
        if elsewhere:
            return f"did you mean {' or '.join(map(repr, elsewhere))}?"
        here = [known for known in self.known if "." not in known]
        if len(here) <= _LISTED or difflib.get_close_matches(name, here, n=1):
            return closest(name, here) if here else "it has none."
        return "--print_config shows all that exist."


@dataclass(frozen=True)
class UnknownClass(Problem):
    """The name of a class that there is not, or not of the kind that is needed.

    Args:
        name: What was given.
        why: What is wrong with the class and what to do; None if there is none of that name.
        allowed: Names of those that can be taken.
    """

    name: str
    why: str | None
    allowed: Sequence[str]

    def __str__(self) -> str:
        if self.why is None:
            last = self.name.rpartition(".")[2]
            return f"{self.key}: there is no {self.name!r}: {closest(last, self.allowed)}"
        return f"{self.key}: {self.why}"


@dataclass(frozen=True)
class MissingSetting(Problem):
    """A setting that must be given and is not.

    Args:
        owner: Name of the class that needs it; None for a group or a command.
        allowed: What it may be, in words.
    """

    owner: str | None
    allowed: str

    def __str__(self) -> str:
        owner = f", which {self.owner} needs" if self.owner else ""
        return f"{self.key} is missing{owner}: give {self.allowed}."


@dataclass(frozen=True)
class WrongValue(Problem):
    """A value of another type than its setting's.

    Args:
        given: The value.
        allowed: What it may be, in words.
    """

    given: Any
    allowed: str

    def __str__(self) -> str:
        return f"{self.key} is {as_written(self.given)}: give {self.allowed}."


@dataclass(frozen=True)
class Misplaced(Problem):
    """A setting of a class beside its `class_path`, which is not where settings stand."""

    def __str__(self) -> str:
        above, _, name = self.key.rpartition(".")
        return f"{above}: {name!r} stands beside class_path: put it under init_args."


@dataclass(frozen=True)
class BadWord(Problem):
    """A word of the command line that sets nothing, or says no value."""

    allowed: str | None = None

    def __str__(self) -> str:
        if self.allowed is None:
            return f"{self.key!r} is no setting: give --KEY VALUE, or --config FILE."
        return f"--{self.key} is given without a value: give {self.allowed}."


class SettingsError(UserError):
    """Settings that do not fit; one line each, and one before them if there are several.

    Args:
        problems: What does not fit.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        lines = [str(problem) for problem in problems]
        several = [f"{len(lines)} settings do not fit:", *(f"  {line}" for line in lines)]
        super().__init__(lines[0] if len(lines) == 1 else "\n".join(several))


@contextmanager
def given_at(key: str, part: str = "") -> Iterator[None]:
    """Say of settings that are parsed by themselves where they were given.

    Args:
        key: Beginning of their keys where they were given.
        part: The same in what is parsed.
    """
    try:
        yield
    except SettingsError as error:
        raise SettingsError(
            [
                replace(each, key=key + each.key.removeprefix(part))
                if each.key.startswith(part)
                else each
                for each in error.problems
            ]
        ) from error


def as_written(value: Any) -> str:
    """Show a value as YAML, with quotes around what is text."""
    if isinstance(value, str):
        try:
            return repr(value) if isinstance(yaml.safe_load(value), str | None) else value
        except yaml.YAMLError:
            return repr(value)
    text = yaml.safe_dump([value], default_flow_style=True, width=10_000).strip()[1:-1]
    return text if len(text) <= 200 else f"{text[:197]}..."


_WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
    timedelta: "a duration such as 00:12:00:00", dict: "settings by name", Any: "anything",
}  # fmt: skip
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts", dict: "settings by name"}


def in_words(hint: Any) -> str:
    """Say what values a type allows."""
    members = list(get_args(hint)) if is_union(hint) else [hint]
    literals = [v for each in members if get_origin(each) is Literal for v in get_args(each)]
    texts = list(dict.fromkeys("null" if v is None else str(v) for v in literals))
    words = [f"one of {', '.join(texts)}"] if texts else []
    for each in members:
        if each is int and float in members:
            continue
        if each is str and any(isinstance(m, type) and issubclass(m, PathLike) for m in members):
            continue
        if each is not NoneType and get_origin(each) is not Literal:
            words.append(_of_one(each))
    words = [*dict.fromkeys(words), *(["null"] if NoneType in members else [])]
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _of_one(hint: Any) -> str:
    if hint in _WORDS:
        return _WORDS[hint]
    origin, arguments = get_origin(hint), [a for a in get_args(hint) if a is not Ellipsis]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "settings by name"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        count = f"{len(arguments)} " if origin is tuple and Ellipsis not in get_args(hint) else ""
        item = arguments[0] if arguments else Any
        if item in _PLURALS:
            return f"a list of {count}{_PLURALS[item]}"
        return f"a list{f' of {count.strip()}' if count else ''}, each {in_words(item)}"
    if isinstance(hint, type) and issubclass(hint, PathLike):
        return "a path"
    if has_class(hint):
        names = sorted(choices(hint))
        if names == [hint.__name__]:
            return f"settings of {hint.__name__} by name"
        return f"one of {', '.join(names)}"
    return f"a {getattr(hint, '__name__', 'value')}"


def is_union(hint: Any) -> bool:
    """Whether a type is one of several."""
    return get_origin(hint) in (Union, UnionType)


def has_class(hint: Any) -> bool:
    """Whether a type is a class that is built from settings, or a container of such."""
    origin = get_origin(hint)
    if origin is None:
        return bool(ActionTypeHint.is_subclass_typehint(hint, also_closed=True))  # type: ignore[no-untyped-call]
    holds = is_union(hint) or (isinstance(origin, type) and issubclass(origin, Iterable))
    return holds and any(map(has_class, get_args(hint)))


def choices(base: type) -> dict[str, type]:
    """Classes that can be taken for a base class, by short name."""
    found = [base] if not isabstract(base) else []
    found += concrete_subclasses(base)
    return {
        cls.__name__: cls for cls in found
        if "<locals>" not in cls.__qualname__ and "._" not in f"{cls.__module__}.{cls.__name__}"
    }  # fmt: skip
