"""Processor time until a command says something, and until a stage begins: forked, or started anew.

Processor time, as other work of the machine does not lengthen it much. The rival of a command is
what none that trains can do without: the import of Lightning.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from detaux_pl.cli.main import main
from detaux_pl.pipeline.fork_server import allow, fork_server
from detaux_pl.pipeline.process import start

_CHAIN = Path(__file__).parents[1] / "conf" / "chain.yaml"
_STAGES = 11
"""Processes of the stages of the quickstart, on two cores."""
_DETAUX = (sys.executable, "-m", "detaux_pl")


def measure() -> Iterator[tuple[str, float, str]]:
    """Yield what is measured: name, value, unit."""
    with tempfile.TemporaryDirectory() as folder:
        run, image = Path(folder) / "run", Path(folder) / "image.png"
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(image)
        chain = ("--config", str(_CHAIN), "--run_dir")
        subprocess.run([*_DETAUX, "fit", *chain, str(run)], check=True, capture_output=True)
        clusters = ("--config", str(run / "cluster" / "config.yaml"), "--redo", "cluster")
        lightning = _until_a_line([sys.executable, "-c", "import lightning.pytorch; print(1)"])
        yield "import lightning.pytorch", lightning, "s of processor time"
        for words in (
            ("--help",),
            ("compare", str(run)),
            ("predict", str(run), str(image)),
            ("data", "check", *chain, str(Path(folder) / "checked")),
            ("cluster", *clusters),  # whose redoing ends the arms
        ):
            took = _until_a_line([*_DETAUX, *words])
            yield f"detaux {words[0]}, to its first line", took, "s of processor time"
            yield "ratio", took / lightning, "x"
    (anew, wall_anew), (forked, wall) = (_starts(way) for way in ("anew", "forked"))
    yield f"{_STAGES} processes of stages, started anew", anew, "s of processor time"
    yield "the same, forked from a server", forked, "s of processor time"
    yield "ratio", forked / anew, "x"
    yield "ratio of the time that one takes to begin", wall / wall_anew, "x"


def _until_a_line(command: Sequence[str]) -> float:
    """Return the processor time of a process up to its first line [s]."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        process.stdout.read()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _starts(way: str) -> tuple[float, float]:
    """Return the processor time of all stages together, and the time that one takes [s]."""
    command = [sys.executable, "-m", __name__, way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    total, each = done.stdout.split()[-2:]
    return float(total), float(each)


def _start_stages(way: str) -> None:
    import detaux_pl.pipeline.chain  # noqa: F401  # as a planner has

    if way == "forked":
        allow(main)
    with fork_server():
        start(["multitask", "--help"], 1).wait()  # when the server is ready
        began = time.perf_counter()
        for _ in range(_STAGES - 1):
            start(["multitask", "--help"], 1).wait()
        each = (time.perf_counter() - began) / (_STAGES - 1)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(used.ru_utime + used.ru_stime, each)


if __name__ == "__main__":
    _start_stages(sys.argv[1])
