"""What goes to the terminal: text as it is, never read as markup.

Names of factors, classes, arms and folders are the user's: `width [mm]`, `[/x]`, `:art:`. What is
coloured is a `Text` of parts.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import TextColumn


def terminal(**options: Any) -> Console:
    """Return a console, with further options of `rich.console.Console`."""
    return Console(**options, markup=False, emoji=False, highlight=False)


def words(template: str) -> TextColumn:
    """Return the column of a progress bar that shows text, such as `{task.description}`."""
    return TextColumn(template, markup=False)
