"""Stages that are forked: the same bytes as of processes started anew, and nothing left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from detaux_pl.artifacts.exit_codes import NOTHING_FOUND
from detaux_pl.pipeline.fork_server import fork, fork_server
from tests.cli.conftest import CONF, all_below, copy_stages

CHAIN = ["fit", "--config", str(CONF / "chain.yaml"), "--refine.rounds", "2"]
ANEW = "import sys; from detaux_pl.cli.main import main; sys.exit(main(sys.argv[1:]))"
"""A process that only calls the command line, whose stages are started anew."""


def _start(run_dir: Path, words: Sequence[str], forked: bool = True) -> subprocess.Popen[bytes]:
    # As many threads as there are cores for each, but where several share them.
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    how = ["-m", "detaux_pl"] if forked else ["-c", ANEW]
    command = [sys.executable, *how, *CHAIN, "--run_dir", str(run_dir), *words]
    return subprocess.Popen(command, env=environment)


def test_a_process_that_calls_us_is_not_forked():
    with fork_server():
        assert fork(["--version"], os.environ) is None


def _outputs(run_dir: Path) -> dict[str, bytes]:
    names = ("codes.npy", "labels*.npz", "candidates.json", "test.json", "predictions.npz")
    files = [path for name in names for path in run_dir.rglob(name)]
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "ranks"), [("1", "1"), ("2", "1"), ("4", "1"), ("1", "2")])
def test_forked_stages_write_the_same_bytes(tmp_path: Path, jobs: str, ranks: str):
    tried = {
        "clusterers": [{"class_path": "KMeans", "init_args": {"n_clusters": 4}}],
        "tries": 1, "confirmations": 1, "min_learnability": 0,
    }  # fmt: skip
    words = [
        "--jobs", jobs, "--seeds", "1", "--multitask.trainer.max_epochs", "1",
        "--refine.rounds", "0", "--nets.epochs", "1",
        "--disentangle.trainer.devices", ranks, "--multitask.trainer.devices", ranks,
        "--discoveries", json.dumps({"tried": {"cluster": {"select": tried}}}),
    ]  # fmt: skip
    for name in ("forked", "anew"):
        # 4 where nets of one epoch gain nothing from the task that is tried.
        code = _start(tmp_path / name, words, name == "forked").wait(timeout=900)
        assert code in (0, NOTHING_FOUND)
    forked, anew = (_outputs(tmp_path / name) for name in ("forked", "anew"))
    assert {Path(name).name for name in anew} >= {"codes.npy", "candidates.json", "test.json"}
    assert [name for name in anew if anew[name] != forked.get(name)] == []


REFINE = ["--nets.epochs", "12", "--jobs", "2", "--until", "refine"]


def _refining(finished_run: Path, run_dir: Path) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    """Start a chain; when its first net is trained, give it and its processes, by their names."""
    copy_stages(finished_run, run_dir, "disentangle", "evaluate", "cluster")
    planner = _start(run_dir, REFINE)
    nets = run_dir / "refine" / "nets"
    _wait_until(lambda: planner.poll() is not None or [*nets.rglob("round*.npz")], 600)
    processes = {
        pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in all_below(planner.pid)
    }
    workers = ["detaux _worker", "detaux _worker"]
    assert sorted(processes.values()) == [*workers, "detaux refine", "detaux server"]
    return planner, {name.removeprefix("detaux "): pid for pid, name in processes.items()}


def _wait_until(holds: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["planner", "server", "refine", "_worker"])
def test_kill_9_leaves_no_process_and_the_run_goes_on(
    tmp_path: Path, finished_run: Path, victim: str
):
    planner, processes = _refining(finished_run, tmp_path)
    all_ = [planner.pid, *all_below(planner.pid)]
    os.kill({**processes, "planner": planner.pid}[victim], signal.SIGKILL)
    assert planner.wait(timeout=60) == (-signal.SIGKILL if victim == "planner" else 1)
    _wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in all_), 10)
    assert _start(tmp_path, REFINE).wait(timeout=600) == 0
    assert (tmp_path / "refine" / "labels.npz").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_planner_ends_all(
    tmp_path: Path, finished_run: Path, number: int, code: int
):
    planner, _ = _refining(finished_run, tmp_path)
    all_ = [planner.pid, *all_below(planner.pid)]
    planner.send_signal(number)
    assert planner.wait(timeout=60) == code
    assert not any(Path(f"/proc/{pid}").exists() for pid in all_)
