"""A parser whose help is short and whose errors are one line."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pydoc import locate
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser

from detaux_pl.artifacts.errors import UserError
from detaux_pl.settings.unfinished import why_abstract


class ShortParser(ArgumentParser):
    """ArgumentParser that raises `UserError` and lists only what is asked for most."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as one line.

        Raises:
            UserError: Always.
        """
        raise UserError(one_line(message)) from ex

    def format_help(self, formatter: Any = None) -> str:
        """List the undotted arguments, and say how to see the rest."""
        lines = [f"usage: {self.prog} --config FILE [--KEY VALUE ...]", ""]
        groups: dict[str, int] = {}
        for action in self._actions:
            name = max(action.option_strings, key=len, default="")
            if not name or " --> " in name or name in ("--help", "--print_config", "--print_shtab"):
                continue
            if "." in name:
                group = name.split(".")[0]
                groups[group] = groups.get(group, 0) + 1
            elif action.help != "==SUPPRESS==":
                help_ = (action.help or "").split("(")[0].strip().splitlines()
                lines.append(f"  {name:<18} {help_[0] if help_ else ''}".rstrip())
        if groups:
            lines += ["", "Nested settings, in the config file or as --GROUP.KEY VALUE:"]
            lines += [f"  {name:<18} {count} settings" for name, count in groups.items()]
        lines += [
            "",
            "  --print_config     all settings with their values, as YAML;",
            "                     =skip_default shows only what differs from the defaults",
        ]
        return "\n".join(lines) + "\n"


P = TypeVar("P", bound=ShortParser)


def config_parser(cls: type[P], **kwargs: Any) -> P:
    """Return an empty parser that takes a config file and overrides of it."""
    parser = cls(dump_header=[f"detaux_pl=={version('detaux_pl')}"], **kwargs)
    parser.add_argument("--config", action="config", help="YAML file of settings.")
    return parser


def parse(parser: ShortParser, args: Sequence[str]) -> dict[str, Any]:
    """Parse the words of a command; return its settings as plain values."""
    config: dict[str, Any] = yaml.safe_load(parser.dump(parser.parse_args(args), skip_unset=False))
    config.pop("config", None)
    return config


def explain(error: Exception) -> UserError:
    """Turn an exception of a constructor, wrapped or not, into the one line that it says."""
    deepest: BaseException = error
    seen: set[int] = set()
    while id(deepest) not in seen:
        seen.add(id(deepest))
        below = deepest.__cause__ or deepest.__context__
        if isinstance(below, (ValueError, TypeError, UserError)):
            deepest = below
    return deepest if isinstance(deepest, UserError) else UserError(one_line(str(deepest)))


def one_line(message: str) -> str:
    """Condense jsonargparse's many lines into one that names the setting and what is allowed."""
    flat = " ".join(message.split())
    found = re.search(r"Parser key \"?'?([\w.]+)\"?'?:", flat)
    where = f"{found[1]}: " if found else ""
    flat = re.sub(r"^.*?Parser key \S+?:\s*", "", flat)
    # A nested parser has told the first of these in its own words already.
    unknown = r"(?:Option|unknown setting) '([\w.]+)'|arguments: --([\w.]+)"
    if option := re.search(unknown, flat):
        name = option[1] or option[2]
        return f"{where}unknown setting {name!r}: --print_config shows all that exist."
    if "an instantiatable class, but" in flat:
        name = re.search(r"class, but ([\w.]+) is abstract|Given value: ([\w.]+)$", flat)
        return f"{where}{why_abstract(name[1] or name[2])}" if name else flat
    base = re.search(r"Subtypes: \[<class '([\w.]+)'", flat)
    if name := re.search(r"Expected a dot import path string: (\S+)", flat):
        classes = sorted(c.__name__ for c in concrete_subclasses(locate(base[1]))) if base else []
        allowed = closest(name[1], classes) if classes else "give the name of a class, or its path."
        return f"{where}there is no {name[1]!r}: {allowed}"
    # What fits none of several types is told for each; that it is not null either says nothing.
    union = r"Does not validate against any of the Union subtypes Subtypes: .*? Errors: "
    flat = re.sub(union, "", flat)
    flat = re.sub(r"- Expected a NoneType ?|<class '([\w.]+)'>", r"\1", flat)
    flat = re.sub(r"\s*Given value type: .*?Given value: ", " but got ", flat)
    flat = where + flat.strip(" -").replace("typing.Literal", "one of ")
    return flat if len(flat) <= 400 else f"{flat[:397]}..."


def closest(name: str, allowed: Sequence[str]) -> str:
    """Return a `did you mean` for a name, or what is allowed."""
    match = difflib.get_close_matches(name, allowed, n=1)
    return f"did you mean {match[0]!r}?" if match else f"choose one of {', '.join(allowed)}."


def concrete_subclasses(cls: Any) -> Iterator[type]:
    """Give every class below `cls` that can be built."""
    for child in cls.__subclasses__():
        if not inspect.isabstract(child):
            yield child
        yield from concrete_subclasses(child)
