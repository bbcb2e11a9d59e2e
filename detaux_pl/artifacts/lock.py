"""One writer per run folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detaux_pl.artifacts.errors import ArtifactError

_HELD = "DETAUX_LOCKED_RUN_DIR"


@contextmanager
def run_lock(run_dir: Path, shared: bool = False) -> Iterator[int | None]:
    """Hold the run folder for this process and the stages it starts.

    Several may hold it `shared`, as those that train different arms do, and nobody else meanwhile.

    Yields the descriptor of the lock, to be inherited by child processes: the folder then stays
    locked until the last of them ends, even where this process was killed. None where a parent
    process holds the lock already. The kernel lets go of the lock when its holders end.

    Raises:
        ArtifactError: If another process works in the folder.
    """
    held = str(run_dir.resolve())
    outer = os.environ.get(_HELD)
    if outer == held:
        yield None
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        opened = (run_dir / ".lock").open("a+", encoding="ascii")
    except OSError as error:
        raise ArtifactError(
            f"{run_dir} cannot be used as a run folder ({error.strerror}): give another --run_dir."
        ) from None
    with opened as handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise ArtifactError(
                f"{run_dir} is in use by process {handle.read().strip() or 'unknown'}: "
                "wait for it, stop it, or give another --run_dir."
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        os.environ[_HELD] = held
        try:
            yield handle.fileno()
        finally:
            if outer is None:
                del os.environ[_HELD]
            else:
                os.environ[_HELD] = outer


@contextmanager
def file_lock(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Hold a file, which is made for it; gives its descriptor, None where another one holds it.

    Args:
        path: The file.
        wait: Wait for those who hold it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
        else:
            yield handle.fileno()
