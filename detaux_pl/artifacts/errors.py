"""Errors that are told in one line: what the user gave does not fit, or the disk does not do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator


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


_OF_PATHS = {
    errno.ENAMETOOLONG: "the name is too long: give a shorter one",
    errno.EISDIR: "it is a folder: give a file",
    errno.ENOTDIR: "there is a file where a folder should be: give another place",
    errno.EEXIST: "something of that name is in the way: give another place",
    errno.ENOENT: "it does not exist: give one that does",
    errno.EACCES: "permission is denied: change it, or give another place",
    errno.EPERM: "permission is denied: change it, or give another place",
    errno.EROFS: "it cannot be written to: give another place",
    errno.ELOOP: "its links lead in a circle: mend them",
}
"""What is said of a path that the user gave, or may have changed."""
_OF_DISKS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is full",
    errno.EFBIG: "the file is larger than you may write",
    errno.EIO: "the disk does not answer",
}
"""What no other setting mends."""
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written|database or disk is full")
"""How numpy and SQLite say that a disk is full."""


def disk_error(error: BaseException) -> str | None:
    """Say in one line that a disk is full or broken, where that is why something failed."""
    for cause in _causes(error):
        code = cause.errno if isinstance(cause, OSError) else None
        if code is None and _SHORT_WRITE.search(" ".join(map(str, cause.args))):
            code = errno.ENOSPC
        if code in _OF_DISKS:
            name = getattr(cause, "filename", None)
            what = f"{os.fspath(name)} cannot be written, {_OF_DISKS[code]}" if name else None
            what = what or f"a file cannot be written, {_OF_DISKS[code]}"
            return f"{what}: mend that, and run the same command again to go on."
    return None


def path_error(error: BaseException) -> str | None:
    """Say in one line what is wrong with a path; None for an error of another kind."""
    if not isinstance(error, OSError) or error.errno not in _OF_PATHS or error.filename is None:
        return None
    name = os.fsdecode(error.filename) if not isinstance(error.filename, int) else "a file"
    name = name if len(name) <= 200 else f"{name[:197]}..."
    return f"{name} cannot be used, {_OF_PATHS[error.errno]}."


def path_cause(error: BaseException) -> str | None:
    """Say the same of the errors that one comes from."""
    return next((line for cause in _causes(error) if (line := path_error(cause))), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and those that it comes from."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
