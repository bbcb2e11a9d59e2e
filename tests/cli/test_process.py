"""Processes of the stages: exit codes, signals, and what is left when they are killed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from detaux_pl.artifacts.exit_codes import Stopped
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.cli.main import main
from detaux_pl.pipeline.process import GRACE, Process, end, run_processes
from detaux_pl.pipeline.workers import Workers
from tests.cli.conftest import CONF, all_below


def test_the_worst_exit_code_counts():
    ticks: list[int] = []
    assert run_processes([[["--version"]]], None, lambda: ticks.append(1)) == 0
    assert ticks
    two = [[["--version"], ["--version"]], [["bogus"]]]
    assert run_processes(two, None, lambda: None) == 2


def test_a_worker_that_fails_ends_the_work(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    workers = Workers(2)
    try:
        with pytest.raises(Stopped) as stop:
            workers([(str(tmp_path / "nothing"), "tasks", (0, [0]))], lambda: None)
    finally:
        workers.close()
    assert stop.value.code == 2
    assert "nets.json is missing" in capfd.readouterr().err
    assert all(child.returncode is not None for child in workers.children)


def _start(run_dir: Path) -> subprocess.Popen[bytes]:
    words = ["fit", "--config", str(CONF / "chain.yaml"), "--run_dir", str(run_dir)]
    return subprocess.Popen([sys.executable, "-m", "detaux_pl", *words])


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", ["disentangle/checkpoints/last.ckpt", "cluster/config.yaml", "multitask/single_task"]
)
def test_kill_9_in_a_stage_then_the_same_labels(tmp_path: Path, finished_run: Path, where: str):
    first = _start(tmp_path)
    _wait_for(tmp_path / where, first)
    children = all_below(first.pid)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    # A stage ends soon after its planner; until it has, the folder stays locked.
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert _start(tmp_path).wait() == 0
    _assert_same_labels(tmp_path, finished_run)
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_the_stage_and_the_run_goes_on_later(
    tmp_path: Path, finished_run: Path, number: int, code: int
):
    first = _start(tmp_path)
    _wait_for(tmp_path / "disentangle" / "checkpoints" / "last.ckpt", first)
    children = all_below(first.pid)
    os.kill(first.pid, number)
    assert first.wait() == code
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert not (tmp_path / "cluster").exists()
    assert _start(tmp_path).wait() == 0
    _assert_same_labels(tmp_path, finished_run)


def _assert_same_labels(run: Path, other: Path) -> None:
    labels, expected = (AuxiliaryLabels.load(path / "cluster") for path in (run, other))
    np.testing.assert_array_equal(labels.ids, expected.ids)
    np.testing.assert_array_equal(labels.labels, expected.labels)


@pytest.fixture
def stubborn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of Python, what heeds no SIGTERM and starts a process that looks for no parent."""
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\ntrap '' TERM\nsleep 60 &\n"
        "echo $! > $3.pid\nmv $3.pid $3.child\nwait\nsleep 60\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return tmp_path


def _child_of(name: Path) -> int:
    deadline = time.monotonic() + 20
    while not (file := name.with_suffix(".child")).is_file():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(file.read_text())


def _runs(pid: int) -> bool:
    """Whether a process runs: one that nobody asked for its exit code does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_for_the_end_of(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(map(_runs, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_with_nothing_to_lose_end_soon(stubborn: Path):
    processes = [Process([str(stubborn / name)], stdin=subprocess.PIPE) for name in "ab"]
    children = [_child_of(stubborn / name) for name in "ab"]
    started = time.monotonic()
    end(processes)
    assert time.monotonic() - started < GRACE + 3
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2
    _wait_for_the_end_of(children)


def test_nothing_outlives_a_process_that_was_killed(stubborn: Path):
    process = Process([str(stubborn / "a")])
    child = _child_of(stubborn / "a")
    assert process.poll() is None
    assert _runs(child)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    _wait_for_the_end_of([child])


def test_what_killed_writers_left_is_swept_up(run_copy: Path, finished_run: Path):
    left = [run_copy / ".config-abcd1234.part.yaml", run_copy / "cluster" / ".x-a_b_c_d_.part.npz"]
    others = [
        run_copy / ".lock",
        run_copy / ".my-settings.yaml",
        run_copy / "notes.part.yaml",
        run_copy / "trials" / "1" / ".table-abcd1234.part.csv",
    ]
    for path in (*left, *others, run_copy / "trials" / "1" / ".lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert main(["cluster", "--config", str(run_copy / "cluster" / "config.yaml")]) == 0
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


def test_garbage_is_looked_for_once_a_command_is_imported():
    gc.disable()
    try:
        assert main(["probes", "nowhere"]) == 2
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
