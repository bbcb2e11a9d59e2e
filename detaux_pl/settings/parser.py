"""A parser whose help is short and whose errors say what to mend, one line each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NoReturn, TypeVar

from jsonargparse import Namespace

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.yaml_text import load_yaml
from detaux_pl.settings.limits import refuse_seed
from detaux_pl.settings.numbers import KeepsIntegers
from detaux_pl.settings.words import as_words


class ShortParser(KeepsIntegers):
    """ArgumentParser that raises `UserError` and lists only what is asked for most."""

    _inner_parser = False  # jsonargparse sets it on those that it makes of classes

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parse words; tell all that does not fit.

        Raises:
            UserError: If something does not.
        """
        if self._inner_parser and args and args[0]:
            # It gets `null` of a word for an argument of its own as the text of Python's None.
            words = [re.sub(r"=None\Z", "=null", word) for word in args[0]]
            args = (words, *args[1:])
        try:
            parsed: Namespace = super().parse_args(*args, **kwargs)
        except UserError as error:
            self._explain(self.args, error)
        self._refuse(self.args, values=False)  # jsonargparse passes over an empty unknown group
        return parsed

    def parse_object(self, obj: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Parse settings by name, whose strings are strings; tell all that does not fit.

        Raises:
            UserError: If something does not.
        """
        # What an inner parser gets was marked before, or is a word of the command line.
        given = obj if self._inner_parser else as_words(obj)
        try:
            parsed: Namespace = super().parse_object(given, *args, **kwargs)
        except UserError as error:
            self._explain(obj, error)
        return parsed

    def _explain(self, given: Any, error: UserError) -> NoReturn:
        if not self._inner_parser:
            self._refuse(given)
        raise error

    def _refuse(self, given: Any, values: bool = True) -> None:
        from detaux_pl.settings.diagnosis import diagnose
        from detaux_pl.settings.problems import SettingsError

        problems = diagnose(self, given, values)
        if problems:
            raise SettingsError(problems)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong.

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
    # A misspelt word is told, and not taken for the beginning of another.
    kwargs = {"allow_abbrev": False, **kwargs}
    parser = cls(dump_header=[f"detaux_pl=={version('detaux_pl')}"], **kwargs)
    parser.add_argument("--config", action="config", help="YAML file of settings.")
    return parser


def parse(parser: ShortParser, args: Sequence[str]) -> dict[str, Any]:
    """Parse the words of a command; return its settings as plain values."""
    config: dict[str, Any] = load_yaml(parser.dump(parser.parse_args(args), skip_unset=False))
    config.pop("config", None)
    if isinstance(config.get("seed"), int):
        refuse_seed("seed", config["seed"])
    return config


def explain(error: Exception, config: Mapping[str, Any] | None = None, key: str = "") -> UserError:
    """Turn an exception of a constructor, wrapped or not, into the one line that it says.

    Args:
        error: The exception.
        config: Resolved settings, from which it was built: the line begins with the key of its own.
        key: Where they are in those of a chain.
    """
    deepest: BaseException = error
    seen: set[int] = set()
    while id(deepest) not in seen:
        seen.add(id(deepest))
        below = deepest.__cause__ or deepest.__context__
        if isinstance(below, (ValueError, TypeError, UserError)):
            deepest = below
    if isinstance(deepest, UserError):
        return deepest
    from detaux_pl.settings.diagnosis import refused_by

    return UserError(refused_by(deepest, config or {}, key) + one_line(str(deepest)))


def one_line(message: str) -> str:
    """Put a message of several lines on one."""
    flat = " ".join(message.split())
    return flat if len(flat) <= 400 else f"{flat[:397]}..."
