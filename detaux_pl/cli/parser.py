"""A parser whose help is short and whose errors are one line."""

from __future__ import annotations

import difflib
import re
from importlib.metadata import version
from typing import Any, NoReturn, TypeVar

from jsonargparse import ActionConfigFile, ArgumentParser

from detaux_pl.artifacts.errors import UserError


class ShortParser(ArgumentParser):
    """ArgumentParser that raises `UserError` and lists only what is asked for most."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Raise what is wrong as one line.

        Raises:
            UserError: Always.
        """
        raise UserError(one_line(message)) from ex

    def format_help(self) -> str:
        """List the undotted arguments, and say how to see the rest."""
        lines = [f"usage: {self.prog} --config FILE [--KEY VALUE ...]", ""]
        groups: dict[str, int] = {}
        for action in self._actions:
            name = max(action.option_strings, key=len, default="")
            if not name or name in ("--help", "--print_config", "--print_shtab"):
                continue
            if "." in name:
                group = name.split(".")[0]
                groups[group] = groups.get(group, 0) + 1
            elif action.help != "==SUPPRESS==":
                help_ = (action.help or "").split("(")[0].strip().splitlines()
                lines.append(f"  {name:<18} {help_[0] if help_ else ''}".rstrip())
        lines += ["", "Nested settings, in the config file or as --GROUP.KEY VALUE:"]
        lines += [f"  {name:<18} {count} settings" for name, count in groups.items()]
        lines += [
            "",
            "  --print_config     all settings with their values, as YAML; =comments adds what",
            "                     each means, =skip_default shows only what differs",
            "  --model.help CLASS what a class takes (also --data.help, --disentangle.model.help)",
        ]
        return "\n".join(lines) + "\n"


P = TypeVar("P", bound=ShortParser)


def config_parser(cls: type[P], **kwargs: Any) -> P:
    """Return an empty parser that takes a config file and overrides of it."""
    parser = cls(dump_header=[f"detaux_pl=={version('detaux_pl')}"], **kwargs)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of settings.")
    return parser


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
    """Condense jsonargparse's many lines into one that names the setting."""
    flat = " ".join(message.split())
    unknown = re.search(
        r"[Kk]ey '?\"?([\w.]+)'?\"? is not expected|[Uu]nrecognized arguments: (\S+)", flat
    )
    if unknown:
        key = (unknown[1] or unknown[2]).lstrip("-").split("=")[0]
        return f"unknown setting {key!r}: --print_config shows all that exist."
    key = re.search(r"Parser key \"?'?([\w.]+)\"?'?:", flat)
    flat = re.sub(r"^.*?Parser key \S+?:\s*", "", flat)
    flat = re.sub(r"<class '([\w.]+)'>", r"\1", flat)
    flat = f"{key[1]}: {flat}" if key else flat
    return flat if len(flat) <= 400 else f"{flat[:397]}..."


def closest(name: str, allowed: list[str]) -> str:
    """Return a `did you mean` for a name, or what is allowed."""
    match: list[Any] = difflib.get_close_matches(name, allowed, n=1)
    return f"did you mean {match[0]!r}?" if match else f"choose one of {', '.join(allowed)}."
