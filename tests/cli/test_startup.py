"""What a command imports before it has anything to say: what takes long, only where it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SLOW = ("torch", "torchvision", "torchmetrics", "lightning", "matplotlib", "scipy.stats", "sklearn")
"""Packages that take a third of a second to several to import."""


def _imported(*words: str) -> set[str]:
    """Those of `SLOW` that a process has imported when its command is done."""
    code = (
        "import sys; from detaux_pl.cli.main import main; code = main(sys.argv[1:]); "
        f"print(*(name for name in {SLOW} if name in sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_output_that_nobody_reads_ends_in_silence():
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "detaux_pl", "--help"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_table_of_runs_needs_neither_torch_nor_charts(finished_run: Path):
    assert _imported("compare", str(finished_run)) == set()
    assert _imported("--help") == set()


def test_clusters_need_no_torch(run_copy: Path):
    config = str(run_copy / "cluster" / "config.yaml")
    # The package of HDBSCAN asks for the two.
    assert _imported("cluster", "--config", config) <= {"sklearn", "scipy.stats"}
    redone = _imported("cluster", "--config", config, "--redo", "cluster")
    assert redone == {"sklearn", "scipy.stats"}
