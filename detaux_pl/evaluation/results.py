"""What the stages of a run found, read from its folder: known to be theirs, and to be whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.stage import StageFolder, redo_name


class Probed(TypedDict):
    """Accuracies of one array of codes, by task."""

    full: dict[str, float]
    slices: list[dict[str, float]]


class _Inputs(TypedDict):
    inputs: dict[str, Probed]


class Probes(_Inputs):
    """The content of `probes.json`, see `probe_codes`."""

    tasks: list[str]
    chance: dict[str, float]
    n_train: int
    n_test: int


class Scores(TypedDict):
    """Scores by name, where a code is a dimension and where it is a subspace."""

    dim: dict[str, float | None]
    subspace: NotRequired[dict[str, float | None]]


class _Scored(TypedDict):
    scores: Scores


class Metrics(_Scored):
    """The content of `metrics.json`, see `judge_codes`."""

    shape: list[int]
    factors: list[str]
    matrices: NotRequired[dict[str, list[list[float | None]]]]
    left_out: dict[str, str]


class Cost(TypedDict):
    """The content of `cost.json`, see `CostRecord`."""

    parameters: NotRequired[float | None]
    inference_parameters: NotRequired[float | None]
    flops: NotRequired[float | None]
    seconds_per_epoch: NotRequired[float | None]
    peak_memory: NotRequired[float | None]
    device: str


class EnsembleNumbers(TypedDict):
    """What `report.json` says of all seeds of an arm together, as far as others read it."""

    accuracy: float
    difference: float | None
    seeds: list[int]


class ArmNumbers(TypedDict):
    """What `report.json` says of an arm, as far as others read it."""

    seeds: list[int]
    missing_seeds: list[int]
    accuracy_mean: float | None
    ci95: list[float] | None
    difference: float | None
    p_value: float | None
    ensemble: NotRequired[EnsembleNumbers | None]


class ReportContent(TypedDict):
    """The content of `report.json`, as far as its table is made from it."""

    principal: str
    arms: dict[str, ArmNumbers]
    main: str
    baseline: str | None


class _Arms(TypedDict):
    arms: dict[str, dict[str, Any]]
    auxiliary: NotRequired[dict[str, Any]]


def read_probes(run_dir: Path) -> Probes:
    """Read the linear probes of a run.

    Raises:
        ArtifactError: If there are none, or the file was changed or is damaged.
    """
    stage = StageFolder(run_dir, "evaluate")
    probes = stage.read("probes.json", Probes)
    parts = [probes["chance"]]
    for entry in probes["inputs"].values():
        parts += [entry["full"], *entry["slices"]]
    if not all(set(probes["tasks"]) <= part.keys() for part in parts):
        raise _damaged(stage, "probes.json", "an accuracy of a task is missing")
    return probes


def read_metrics(run_dir: Path) -> Metrics:
    """Read the disentanglement metrics of a run.

    Raises:
        ArtifactError: If there are none, or the file was changed or is damaged.
    """
    stage = StageFolder(run_dir, "evaluate")
    metrics = stage.read("metrics.json", Metrics)
    if len(metrics["shape"]) != 2:
        raise _damaged(stage, "metrics.json", f"shape is {metrics['shape']}, not two numbers")
    return metrics


def read_scores(stage: StageFolder) -> dict[str, float]:
    """Read the test scores of a training, by name such as `test/accuracy/principal`.

    Raises:
        ArtifactError: If there are none, or the file was changed or is damaged.
    """
    scores = stage.read("test.json", dict[str, float])
    if (key := "test/accuracy/principal") not in scores:
        raise _damaged(stage, "test.json", f"{key} is missing")
    return scores


def read_report(run_dir: Path) -> ReportContent:
    """Read the numbers of the report of a run.

    Raises:
        ArtifactError: If there is none, or the file was changed or is damaged.
    """
    return StageFolder(run_dir, "report").read("report.json", ReportContent)


def _damaged(stage: StageFolder, name: str, wrong: str) -> ArtifactError:
    return ArtifactError(
        f"{stage.path / name} is damaged, {wrong}: --redo {redo_name(stage.name)} makes the stage "
        "again."
    )


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
    found: dict[str, Any] = {}
    evaluate, report = StageFolder(run_dir, "evaluate"), StageFolder(run_dir, "report")
    if (evaluate.path / "metrics.json").is_file():
        found |= _metrics(evaluate.read("metrics.json", _Scored))
    if (evaluate.path / "probes.json").is_file():
        found |= _probes(evaluate.read("probes.json", _Inputs))
    if (report.path / "report.json").is_file():
        found |= _report(report.read("report.json", _Arms))
    numbers = {name: float(value) for name, value in found.items() if _is_number(value)}
    paths = [path.parent.relative_to(run_dir) for path in run_dir.rglob("stage.json")]
    stages = [StageFolder(run_dir, path.as_posix()).manifest for path in paths]
    if stages:
        numbers["seconds"] = round(sum(each["seconds"] for each in stages if each is not None), 2)
    return numbers


def _metrics(content: _Scored) -> Iterator[tuple[str, Any]]:
    scores = content["scores"]
    subspaces = scores.get("subspace", {})
    for way, prefix in ((scores["dim"], "metrics"), (subspaces, "metrics.subspace")):
        for name, value in way.items():
            yield f"{prefix}.{name}", value


def _probes(content: _Inputs) -> Iterator[tuple[str, Any]]:
    for name, entry in content["inputs"].items():
        for task, accuracy in entry["full"].items():
            yield f"probes.{name}.{task}", accuracy
        for k, part in enumerate(entry["slices"]):
            for task, accuracy in part.items():
                yield f"probes.{name}.slice{k}.{task}", accuracy


def _report(content: _Arms) -> Iterator[tuple[str, Any]]:
    for arm, numbers in content["arms"].items():
        for name, value in numbers.items():
            yield f"arms.{arm}.{name}", value
    for name, value in content.get("auxiliary", {}).items():
        yield f"auxiliary.{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
