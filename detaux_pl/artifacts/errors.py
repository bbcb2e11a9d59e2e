"""Errors that are the user's to mend: one line, exit code 2."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave does not fit: a setting, a file, a run folder.

    The message is one line that says what was given, what is allowed and what to do next; the
    command line prints it without a traceback and exits with code 2.
    """


class ArtifactError(UserError):
    """An artifact is missing, incomplete, stale or was changed after it was written."""


class DiscoveryError(UserError):
    """Fewer auxiliary tasks were found than asked for: the run is unsuccessful."""
