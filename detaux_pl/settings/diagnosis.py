"""What does not fit in given settings: told from the parser's own arguments, all at once."""

from __future__ import annotations

import sys
from argparse import Action
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import reduce
from inspect import isabstract, signature
from operator import or_
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from traceback import walk_tb
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from detaux_pl.artifacts.files import read_yaml
from detaux_pl.settings.choices import subclasses
from detaux_pl.settings.problems import (
    BadWord,
    Misplaced,
    MissingSetting,
    Problem,
    UnknownClass,
    UnknownSetting,
    WrongValue,
    choices,
    has_class,
    in_words,
    is_union,
)
from detaux_pl.settings.unfinished import why_abstract

_SPEC = {"class_path", "init_args", "dict_kwargs", "__path__"}
"""What jsonargparse takes beside each other for an object."""


def diagnose(
    parser: ArgumentParser, given: Sequence[str] | Mapping[str, Any], values: bool = True
) -> list[Problem]:
    """Find all that does not fit in what a parser was given.

    Nothing is said of a value that jsonargparse itself takes; it may refuse what is not found here.

    Args:
        parser: The parser.
        given: Words of the command line, or settings by name.
        values: Whether to look at the values, and not at the names of groups alone.
    """
    arguments = _Arguments.of(parser)
    if isinstance(given, Mapping):
        return list(_in_settings(arguments, given, "", None, values))
    said = _Given(parser)
    said.read(given)
    if any(problem.key == "config" for problem in said.problems):
        return said.problems  # what else is missing may be in it
    found = _in_settings(arguments, said.settings, "", None, values)
    return [*(said.problems if values else ()), *found]


def refused_by(error: BaseException, config: Mapping[str, Any], key: str = "") -> str:
    """Return the beginning of the line of what a constructor refused: the key of its settings.

    The object is that of the innermost call on the way to the error that the settings tell of.

    Args:
        error: What the constructor raised.
        config: The resolved settings.
        key: Where they are in those of a chain.

    Returns:
        The key with a colon, or with a dot where the line begins with a setting; nothing where the
        settings do not tell which object it was.
    """
    specs = list(_specs(config, key))
    for frame, _ in reversed(list(walk_tb(error.__traceback__))):
        cls = type(frame.f_locals.get("self"))
        paths = (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")
        fields = getattr(cls, "__dataclass_fields__", {}).keys()
        found = [
            (at, each)
            for at, each in specs
            if each.get("class_path") in paths or (fields and each.keys() == fields)
        ]
        if found:
            # What the stages share is in the settings of each.
            same = all(each == found[0][1] for _, each in found)
            own = min((at for at, _ in found), key=len)
            first = str(error).partition(" ")[0]
            return f"{own}{'.' if first in signature(cls).parameters else ': '}" if same else ""
    return ""


def _specs(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give all that may be settings of an object in resolved ones, each with its key."""
    if isinstance(value, list):
        for n, each in enumerate(value):
            yield from _specs(each, f"{key}[{n}]")
    elif isinstance(value, Mapping):
        yield key, value
        for name, each in value.items():
            inside = name == "init_args"
            yield from _specs(each, key if inside else f"{key}.{name}" if key else str(name))


class _Given:
    """Settings of files and words, the later over the earlier as jsonargparse lays them."""

    def __init__(self, parser: ArgumentParser) -> None:
        self.options = parser._option_string_actions
        self.settings: dict[str, Any] = {}
        self.problems: list[Problem] = []

    def read(self, words: Sequence[str]) -> None:
        rest = list(words)
        while rest:
            word = rest.pop(0)
            name, equals, value = word.removeprefix("--").partition("=")
            action = self.options.get(f"--{name}")
            if not word.startswith("--"):
                self.problems.append(BadWord(word))
            elif action is not None and (action.nargs == 0 or name == "print_config"):
                continue
            elif not equals and (not rest or rest[0].startswith("--")):
                hint = _hint(action, required=True)
                self.problems.append(BadWord(name, in_words(hint) if hint else "one"))
            else:
                value = value if equals else rest.pop(0)
                if name == "config":
                    self._read_config(value)
                else:
                    if f"--{name}" not in self.options and "." in name:
                        value = _yaml(value)  # a part of an object
                    self._place(self.settings, name.split("."), value)

    def _read_config(self, text: str) -> None:
        value = _loaded(text)
        if isinstance(value, dict):
            self._lay(value, "")
        else:
            self.problems.append(WrongValue("config", text, "the path of a YAML file that exists"))

    def _lay(self, settings: Mapping[str, Any], above: str) -> None:
        """Lay the settings of a file over those so far."""
        for name, value in settings.items():
            key = f"{above}{name}"
            action = self.options.get(f"--{key}")
            if isinstance(value, dict) and action is not None and _hint(action) is None:
                self.settings.setdefault(key, {}) if not above else None
                self._lay(value, f"{key}.")
            else:
                self._place(self.settings, key.split("."), value)

    def _place(self, into: dict[str, Any], path: Sequence[str], value: Any) -> None:
        """Set what a dotted name says; `init_args` in it may be left out."""
        name, *below = path
        old = into.get(name)
        old = old.value if isinstance(old, _Before) else old
        if below:
            old = _loaded(old)
            items = old if isinstance(old, list) and old else [old]
            items[-1] = inside = _opened(items[-1])  # of a list, a dotted word sets the last item
            into[name] = items if isinstance(old, list) else inside
            left_out = "class_path" in inside and below[0] not in _SPEC
            self._place(inside, ["init_args", *below] if left_out else below, value)
        elif name == "class_path" and old not in (None, value):
            # Of the settings of another class those go that do not fit, in silence.
            before = into.get("init_args") or {}
            into |= {name: value, "init_args": {k: _Before(v) for k, v in before.items()}}
        elif name.endswith("+"):
            had, added = into.get(name[:-1]), _loaded(value)
            had = had if isinstance(had, list) else [] if had is None else [had]
            into[name[:-1]] = [*had, *(added if isinstance(added, list) else [added])]
        elif isinstance(old, dict) and (name == "init_args" or _SPEC & old.keys()):
            new = _loaded(value)
            new = {"class_path": new} if isinstance(new, str) else new
            if isinstance(new, dict):
                for part, each in new.items():
                    self._place(old, [part], each)
            else:
                into[name] = new
        else:
            into[name] = value


@dataclass(frozen=True)
class _Before:
    """A setting that was given to another class: it is kept if the new one takes it."""

    value: Any


def _opened(value: Any) -> dict[str, Any]:
    """Return what settings can be added to."""
    return {"class_path": value} if isinstance(value, str) else value if value else {}


@dataclass(frozen=True)
class _Arguments:
    """Arguments of a parser or of a group in it, by their names there.

    Args:
        actions: The arguments.
        required: Names of those that must be given.
        linked: Names of those that are taken from others.
    """

    actions: Mapping[str, Action]
    required: frozenset[str]
    linked: frozenset[str] = frozenset()

    @classmethod
    def of(cls, parser: ArgumentParser, linked: frozenset[str] = frozenset()) -> _Arguments:
        """Return all of a parser."""
        actions = {a.dest: a for a in parser._actions if a.dest.split(".")[-1] != "help"}
        required = {name for name, action in actions.items() if action.required}
        return cls(actions, frozenset((required | parser._extra_required_keys) - linked), linked)

    @property
    def names(self) -> list[str]:
        """The first parts of all names."""
        return list(dict.fromkeys(name.partition(".")[0] for name in self.actions))

    def known(self, name: str) -> list[str]:
        """Names that may have been meant: those here, and those of the same name further down."""
        told = [
            known for known, action in self.actions.items()
            if known not in self.linked and " --> " not in action.option_strings[0]
        ]  # fmt: skip
        here = dict.fromkeys(known.partition(".")[0] for known in told)
        return [each for each in here if each != "config" and not each.startswith("print_")] + [
            known for known in told if known.endswith(f".{name}")
        ]

    def below(self, name: str) -> _Arguments:
        """Return those of a group; none if it is no group."""
        start = f"{name}."
        return _Arguments(
            {k.removeprefix(start): a for k, a in self.actions.items() if k.startswith(start)},
            frozenset(k.removeprefix(start) for k in self.required if k.startswith(start)),
        )


def _in_settings(
    arguments: _Arguments,
    given: Mapping[str, Any],
    key: str,
    owner: str | None,
    values: bool = True,
) -> Iterator[Problem]:
    """Check settings by name against the arguments that take them."""
    names = arguments.names
    strange = [str(k) for k, v in given.items() if k not in names and not isinstance(v, _Before)]
    for name in strange:
        yield UnknownSetting(f"{key}{name}", owner, arguments.known(name))
    for name in names:
        value, at = given.get(name), f"{key}{name}"
        action, below = arguments.actions.get(name), arguments.below(name)
        hint = _hint(action, name in arguments.required)
        default = _plain(getattr(action, "default", None))
        if below.actions:
            base = getattr(action, "basetype", None)
            value = _loaded(given.get(name, {}))
            if isinstance(value, Mapping):
                yield from _in_settings(below, value, f"{at}.", base and base.__name__, values)
            else:
                yield WrongValue(at, value, "settings by name, or the path of a file of them")
        elif not values or isinstance(value, _Before):
            continue
        elif hint is None or (value is None and not _is_spec(default)):
            misspelt = get_close_matches(name, strange, n=1)
            if hint is not None and name in arguments.required and not misspelt:
                yield MissingSetting(at, owner, in_words(hint))
        else:
            linked = frozenset(getattr(action, "sub_add_kwargs", {}).get("linked_targets", ()))
            yield from _in_value(hint, value, at, linked, default)


def _hint(action: Action | None, required: bool = False) -> Any:
    """Return the type of an argument, without the null that one that must be given has by default.

    None if its values are not checked.
    """
    hint = getattr(action, "_typehint", None)
    if required and is_union(hint):
        return reduce(or_, (each for each in get_args(hint) if each is not NoneType))
    return hint


def _in_value(
    hint: Any, value: Any, key: str, linked: frozenset[str] = frozenset(), default: Any = None
) -> list[Problem]:
    """Check a value against a type; where it holds objects, each by itself."""
    wrong: list[Problem] = [WrongValue(key, value, in_words(hint))]
    if not has_class(hint):
        return [] if _fits(hint, value) else wrong
    arguments = get_args(hint)
    if is_union(hint):
        if value is None and default is None and NoneType in arguments:
            return []
        found = [_in_value(a, value, key, linked, default) for a in arguments if a is not NoneType]
        # What was meant is the one that has something to say of a part of the value.
        partly = [each for each in found if [p.key for p in each if type(p) is WrongValue] != [key]]
        words = [word for a in arguments if get_origin(a) is Literal for word in get_args(a)]
        return [
            replace(each, allowed=[*words, *each.allowed])
            if isinstance(each, UnknownClass) and each.key == key
            else each
            for each in min(partly, key=len, default=wrong)
        ]
    if get_origin(hint) is None:
        return _in_object(hint, value, key, linked, default)
    value = _loaded(value)
    if issubclass(get_origin(hint), Mapping):
        if not isinstance(value, Mapping):
            return wrong
        parts = [(f"{key}.{name}", each) for name, each in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{key}[{n}]", each) for n, each in enumerate(value)]
    else:
        return wrong
    item = [each for each in arguments if each is not Ellipsis][-1]
    return [problem for at, each in parts for problem in _in_value(item, each, at)]


def _in_object(
    base: type, value: Any, key: str, linked: frozenset[str], default: Any
) -> list[Problem]:
    """Check a class and its settings."""
    if isinstance(value, base):
        return []
    value = {} if value is None else _loaded(value)
    names = sorted(choices(base))
    if isinstance(value, str) and ("." in value or names != [base.__name__] or value in names):
        value = {"class_path": value}
    if not isinstance(value, Mapping):
        return [WrongValue(key, value, in_words(base))]
    name, settings = value.get("class_path"), value.get("init_args") or {}
    beside = {k: v for k, v in value.items() if k not in _SPEC}
    if not isinstance(settings, Mapping):
        return [WrongValue(f"{key}.init_args", settings, "settings by name")]
    known: dict[str, Any] = default if _is_spec(default) else {}
    if name is None:
        name, settings = known.get("class_path"), {**settings, **beside}
        if name is None and isabstract(base):
            return [MissingSetting(f"{key}.class_path", None, in_words(base))]
        beside = {}
    cls = base if name is None else _class_named(str(name), base)
    if cls is None:
        return [UnknownClass(key, str(name), _why(str(name), base), names)]
    if not isinstance(cls, type):  # a function that returns an object
        return []
    if cls is (_class_named(str(known.get("class_path")), base) or base):
        settings = {**(known.get("init_args") or {}), **settings}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, fail_untyped=False)
    arguments = _Arguments.of(parser, linked)
    misplaced = [Misplaced(f"{key}.{each}") for each in beside]
    return [*misplaced, *_in_settings(arguments, settings, f"{key}.", cls.__name__)]


def _fits(hint: Any, value: Any) -> bool:
    """Whether jsonargparse takes a value for a type."""
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=hint)
    except ValueError:  # a type that it does not check
        return True
    try:
        parser.parse_object({"value": value})
    except ArgumentError:
        return False
    return True


def _class_named(name: str, base: type) -> Any:
    """Find what a short name or a path names; None if that cannot be taken for the base."""
    if "." not in name:
        return choices(base).get(name)
    try:
        found: Any = locate(name)
    except ErrorDuringImport:
        return None
    if isinstance(found, type) and (not issubclass(found, base) or isabstract(found)):
        return None
    return found if callable(found) else None


def _why(name: str, base: type) -> str | None:
    """Say what is wrong with a class that is not one of the choices; None if there is none."""
    if "." in name:
        found = locate(name)
    else:
        below = (each for each in subclasses(base) if each.__name__ == name)
        ours = (vars(module).get(name) for path, module in list(sys.modules.items())
                if path.startswith(f"{__package__.split('.')[0]}."))  # fmt: skip
        found = next((each for each in (*below, *ours) if isinstance(each, type)), None)
    if not isinstance(found, type):
        return None
    if issubclass(found, base):
        return why_abstract(found)
    return f"{name} is no {base.__name__}: choose one of {', '.join(sorted(choices(base)))}."


def _is_spec(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def _plain(default: Any) -> Any:
    """Return a default of the parser as plain values."""
    return default.as_dict() if hasattr(default, "as_dict") else default


def _loaded(value: Any) -> Any:
    """Return the settings that a text is, or those in the file that it names; or else itself."""
    if not isinstance(value, str):
        return value
    if len(value) < 256 and Path(value).is_file():
        return read_yaml(Path(value))
    return _yaml(value)


def _yaml(text: str) -> Any:
    """Return the list or the settings that a text is, or else itself."""
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return loaded if isinstance(loaded, list | dict) else text
