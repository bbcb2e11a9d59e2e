"""Errors that are the user's to mend: one line, exit code 2."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave does not fit: a setting, a file, a run folder.

    The message is one line that says what was given, what is allowed and what to do next; the
    command line prints it without a traceback and exits with code 2.
    """


class ArtifactError(UserError):
    """An artifact is missing, incomplete, stale or was changed after it was written."""


class Diverged(UserError):
    """A training whose loss or weights are not finite: it has no result, whatever it goes on to do.

    Args:
        where: What was trained: the path of a stage in its run folder, or a part of it.
        what: What is wrong, since when and what to try.
        since: `epoch`, from 0 as in `metrics.csv`, and `step`, the number of steps made; empty
            where that is not known.
    """

    def __init__(self, where: str, what: str, since: dict[str, int] | None = None) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what
        self.since = since or {}

    def within(self, outer: str) -> Diverged:
        """Return it with what the training was a part of before what was trained."""
        return Diverged(f"{outer}, {self.where}", self.what, self.since)


class DiscoveryError(UserError):
    """Fewer auxiliary tasks were found than asked for: the run is unsuccessful."""
