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


def duration(seconds: float) -> str:
    """Return a time in the unit that people would say it in.

    Example:
        >>> [duration(s) for s in (41.2, 3060.0, 9000.0, 400_000.0)]
        ['41 s', '51 min', '2.5 h', '4.6 days']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    value, unit = (seconds / 3600, "h") if seconds < 172_800 else (seconds / 86_400, "days")
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
