"""The chain in one process, as the tests run it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.pipeline.process import Commands

CONF = Path(__file__).parents[1] / "conf"


def in_process(processes: Sequence[Commands], lock: int | None, tick: Callable[[], object]) -> int:
    """Run the commands of a stage here instead of in processes of their own.

    Pictures have fewer pixels and fewer batches are watched for their memory, which are tested by
    themselves and take a seventh of a miniature chain.
    """
    del lock, tick
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detaux_pl.report.style.PNG_DPI", 30)
        patch.setattr("detaux_pl.training.cost.TRACKED_BATCHES", 2)
        return max(main(["_batch", json.dumps(commands)]) for commands in processes)


def fit(run_dir: Path, *args: str) -> int:
    """Run the miniature chain."""
    return run_chain(
        ["--config", str(CONF / "chain.yaml"), "--run_dir", str(run_dir), *args], in_process
    )


def children_of(pid: int) -> list[int]:
    """Ids of the processes that a process started."""
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in listed.stdout.split()]


def all_below(pid: int) -> list[int]:
    """The same with those that they started, and so on, at once: nothing is started for it."""
    found = [pid]
    for each in found:
        with suppress(OSError):  # it has ended
            listed = Path(f"/proc/{each}/task/{each}/children").read_text()
            found += map(int, listed.split())
    return found[1:]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished miniature run, to look at but not to touch."""
    run_dir = tmp_path_factory.mktemp("chain") / "run"
    assert fit(run_dir) == 0
    return run_dir


def copy_stages(finished_run: Path, run_dir: Path, *stages: str) -> Path:
    """Begin a run with finished stages of another one."""
    for stage in stages:
        shutil.copytree(finished_run / stage, run_dir / stage)
    return run_dir


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run of the test's own."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def error_line(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Run a command that must be refused; return the one line that it says."""

    def run(args: list[str]) -> str:
        capsys.readouterr()
        assert main(args) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        errors = [line for line in lines if line.startswith("error: ")]
        assert errors == lines[-1:], lines
        assert "Traceback" not in "".join(lines)
        return errors[0]

    return run
