import os
import subprocess
import sys

import pytest

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.lock import _HELD, run_lock

ENTER = (
    "import sys; from pathlib import Path\n"
    "from detaux_pl.artifacts.lock import run_lock\n"
    "with run_lock(Path(sys.argv[1])) as descriptor: print(descriptor)"
)


def enter(folder, env):
    return subprocess.run(
        [sys.executable, "-c", ENTER, str(folder)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def stranger():
    return {name: value for name, value in os.environ.items() if name != _HELD}


def test_another_process_is_refused_and_told_who_works_there(tmp_path):
    with run_lock(tmp_path):
        done = enter(tmp_path, stranger())
        assert done.returncode != 0
        assert f"is in use by process {os.getpid()}: wait for it" in done.stderr
    assert enter(tmp_path, stranger()).returncode == 0


def test_a_stage_that_the_holder_started_is_let_in(tmp_path):
    with run_lock(tmp_path) as descriptor:
        assert isinstance(descriptor, int)
        done = enter(tmp_path, dict(os.environ))
        assert (done.returncode, done.stdout.strip()) == (0, "None")
        with run_lock(tmp_path) as again:
            assert again is None
        assert enter(tmp_path, stranger()).returncode != 0


def test_another_folder_is_free(tmp_path):
    with run_lock(tmp_path / "a"):
        with run_lock(tmp_path / "b") as descriptor:
            assert descriptor is not None
        with run_lock(tmp_path / "a") as again:
            assert again is None


def test_the_folder_stays_locked_while_a_child_of_a_dead_holder_works(tmp_path):
    with run_lock(tmp_path) as descriptor:
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor]
        )
    try:
        with pytest.raises(ArtifactError, match="is in use"), run_lock(tmp_path):
            pass
    finally:
        child.communicate(b"\n")
    with run_lock(tmp_path) as descriptor:
        assert descriptor is not None


def test_a_failure_lets_go_of_the_lock(tmp_path):
    with pytest.raises(RuntimeError, match="stage"), run_lock(tmp_path):
        raise RuntimeError("stage")
    assert _HELD not in os.environ
    assert enter(tmp_path, stranger()).returncode == 0
