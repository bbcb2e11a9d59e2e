"""Progress of long work, where there is a terminal to show it on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from detaux_pl.artifacts.terminal import terminal, words


@contextmanager
def progress_bar(title: str, total: int | None, done: int = 0) -> Iterator[Callable[[float], None]]:
    """Show a bar while the block runs; nothing where the errors do not go to a terminal.

    Args:
        title: What the bar says.
        total: Number of steps of the whole work; None where nobody knows it, which counts alone.
        done: How many of them are done already.

    Yields:
        A function to call with the number of steps just done, or the share of one.
    """
    with Progress(
        words("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=terminal(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda n: progress.advance(task, n)
