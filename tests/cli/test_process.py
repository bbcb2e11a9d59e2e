"""Processes of the stages: exit codes, signals, and what is left when they are killed."""

from __future__ import annotations

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
from detaux_pl.pipeline.process import run_processes
from detaux_pl.pipeline.workers import Workers
from tests.cli.conftest import CONF, children_of


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
    children = children_of(first.pid)
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
    children = children_of(first.pid)
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
