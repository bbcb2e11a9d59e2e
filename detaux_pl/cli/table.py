"""What the commands share that put several runs in one table."""

from __future__ import annotations

import io
import sys
from argparse import ArgumentParser
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn

from rich.table import Table

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.terminal import terminal

SUFFIXES = {".html": "html", ".md": "markdown", ".tex": "latex", ".txt": "text"}
"""Which form of a table the name of a file asks for."""
_UNBOUNDED = 10_000
"""Width of a text that no terminal bounds [characters]; a table takes what it needs."""


class PlainParser(ArgumentParser):
    """The standard parser, with our errors."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as one line.

        Raises:
            UserError: Always.
        """
        raise UserError(message)


def form_of(
    given: str | None,
    output: str | None,
    known: Collection[str],
    suffixes: Mapping[str, str] = SUFFIXES,
    what: str = "table is",
) -> str:
    """Return the form of a table: what is asked for, or what the name of the file says.

    Args:
        given: `--format`; None where it is not given.
        output: `--output`; None for the terminal.
        known: The forms that the command has, of which the first is taken where nothing says one.
        suffixes: Which form the ending of a file's name asks for.
        what: What is written, with its verb, for the message.

    Raises:
        UserError: If the name of the file says another form than these.
    """
    suffix = Path(output or "").suffix.lower()
    forms = {suffix: form for suffix, form in suffixes.items() if form in known}
    if given is None and suffix and suffix not in forms:
        raise UserError(
            f"--output is {output}, but no {what} written as {suffix}: give a name ending in "
            f"{', '.join(forms)}, or say --format ({', '.join(known)})."
        )
    return given or forms.get(suffix, next(iter(known)))


def put_out(content: Table | str, output: str | None) -> None:
    """Write a table, or the text of one, to a file or to the terminal.

    Args:
        content: A table is fitted to the terminal, if it goes to one.
        output: The file; None for the terminal.

    Raises:
        UserError: If the file cannot be written.
    """
    if isinstance(content, Table):
        if output is None and sys.stdout.isatty():
            terminal().print(content)
            return
        content = _as_text(content)
    text = content.rstrip("\n") + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    try:
        write_text(Path(output), text)
    except OSError as error:
        raise UserError(
            f"{output} cannot be written ({error.strerror}): give another --output."
        ) from None


def _as_text(table: Table) -> str:
    console = terminal(file=io.StringIO(), width=_UNBOUNDED)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
