"""What the exit codes of `detaux` mean."""

from __future__ import annotations

import os
import sys

OK, CRASH, USER_ERROR, MEND, NOTHING_FOUND = 0, 1, 2, 3, 4
INTERRUPTED, UNREAD, TERMINATED = 130, 141, 143  # as a shell says of SIGINT, SIGPIPE and SIGTERM


class Stopped(Exception):
    """Work ended before it was done.

    Args:
        code: The exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def stopped(code: int) -> int:
    """Say how to go on after an interrupt or a request to end, and return the exit code."""
    if "DETAUX_STAGE" not in os.environ:  # a stage's planner says it
        print("stopped: run the same command again, without --redo, to go on", file=sys.stderr)
    return code
