"""The numbers that a run folder holds, by dotted name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detaux_pl.artifacts.files import read_json


def read_results(run_dir: Path) -> dict[str, float]:
    """Read what the stages of a run wrote of its quality.

    Args:
        run_dir: Folder of the run; stages that it lacks are left out.

    Returns:
        `metrics.mig` and the other metrics of its codes, `metrics.subspace.mig` where a subspace
        is the code; accuracies of probes as `probes.<input>.<factor>` and
        `probes.<input>.slice<k>.<factor>`; `arms.<arm>.accuracy_mean` and the other numbers of
        each arm; `auxiliary.nmi_principal` and the other numbers of the discovered task;
        `seconds`, what its stages took.
    """
    found = {
        **dict(_metrics(_read(run_dir / "evaluate" / "metrics.json"))),
        **dict(_probes(_read(run_dir / "evaluate" / "probes.json"))),
        **dict(_report(_read(run_dir / "report" / "report.json"))),
    }
    numbers = {name: float(value) for name, value in found.items() if _is_number(value)}
    stages = [_read(path) for path in run_dir.rglob("stage.json")]
    if stages:
        numbers["seconds"] = round(sum(stage.get("seconds", 0.0) for stage in stages), 2)
    return numbers


def _metrics(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    scores = content.get("scores", {})
    for way, prefix in (("dim", "metrics"), ("subspace", "metrics.subspace")):
        for name, value in scores.get(way, {}).items():
            yield f"{prefix}.{name}", value


def _probes(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, entry in content.get("inputs", {}).items():
        for task, accuracy in entry["full"].items():
            yield f"probes.{name}.{task}", accuracy
        for k, part in enumerate(entry["slices"]):
            for task, accuracy in part.items():
                yield f"probes.{name}.slice{k}.{task}", accuracy


def _report(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for arm, numbers in content.get("arms", {}).items():
        for name, value in numbers.items():
            yield f"arms.{arm}.{name}", value
    for name, value in content.get("auxiliary", {}).items():
        yield f"auxiliary.{name}", value


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    return content


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
