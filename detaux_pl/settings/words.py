"""Strings that a config gives stay strings, whatever the parser would read in them."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace
from jsonargparse.typing import register_type
from yaml import YAMLError

from detaux_pl.artifacts.yaml_text import load_yaml


class Word(str):
    """A string that the parser does not read again.

    jsonargparse reads a string of a config as it reads a word of the command line, where a factor
    called `[/x]` is a list and `1e3` a number, but it leaves subclasses of `str` alone.
    """

    __slots__ = ()


register_type(Word, serializer=lambda word: word)  # what it is given as, it stays


def as_words(value: Any) -> Any:
    """Mark, at any depth, the strings that would be read as something else."""
    if isinstance(value, str):
        return Word(value) if _says_more(value) else value
    return _within(value, as_words)


def plain(value: Any) -> Any:
    """Undo `as_words`, for what is built or saved."""
    return str(value) if type(value) is Word else _within(value, plain)


def _within(value: Any, change: Any) -> Any:
    if isinstance(value, Namespace):
        changed: Any = {name: change(part) for name, part in vars(value).items()}
        return Namespace(changed)  # type: ignore[no-untyped-call]
    if isinstance(value, dict):
        return {name: change(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(change(part) for part in value)
    return value


def _says_more(text: str) -> bool:
    try:
        return not isinstance(load_yaml(text), str)
    except YAMLError:
        return False
