"""`make verdicts`: what was said of discovered groups before, and what the test images said after.

Reads the splits that `make photos` measured (`runs/photos`) and the folders of finished ladders, of
each the runs with one seed and one number of labels. Nothing is trained.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.metrics import normalized_mutual_info_score

from detaux_pl.artifacts.codes import UNLABELLED, Codes
from detaux_pl.artifacts.files import read_json
from detaux_pl.artifacts.labels import load_tasks
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.erased import read_erasures
from detaux_pl.evaluation.results import read_scores
from detaux_pl.pipeline.ladder import RUNGS

IN_SAMPLE = "cmu_faces-pose"
"""What the rule of the verdict was made on."""


class Case(NamedTuple):
    """A use of the groups of one split, against none of it.

    Args:
        task: Set and principal factor.
        labels: Labels of each class.
        use: `erase`, or `learn`.
        said: Whether groups were said to be worth erasing.
        gain: What the use of them, whatever was said, has more of test accuracy.
    """

    task: str
    labels: str
    use: str
    said: bool
    gain: float


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/photos"), help="of make photos")
    parser.add_argument("--ladders", type=Path, nargs="*", default=[], help="folders of ladders")
    args = parser.parse_args()
    cases = [*_of_splits(args.run_dir)]
    print(f"{len(cases)} splits\n\n{_calibration(cases)}\n{_by_task(cases)}")
    for ladder in args.ladders:
        print(_discovered(ladder))
    told = [case for ladder in args.ladders for case in _of_ladder(ladder)]
    if told:
        print(f"{len(told)} uses in ladders\n\n{_calibration(told)}")


def _of_splits(folder: Path) -> Iterator[Case]:
    for path in sorted(folder.glob("*.json")):
        match = re.fullmatch(r"(.+)-(\d+)-\d+", path.stem)
        if match is not None:
            row = read_json(path)
            gain = row["always"] - row["probe"]
            yield Case(match[1], match[2], "erase", row["found"], gain)


def _of_ladder(folder: Path) -> Iterator[Case]:
    """Every rung with the groups against the same without; what was not erased says nothing."""
    for run in sorted(folder.glob("*/seed*")):
        erasures = read_erasures(StageFolder(run, "cluster"))
        if erasures is None:
            continue
        said = bool(erasures["verdict"]["found"])
        for name, rung in RUNGS.items():
            use = "erase" if name == "erasure" else "learn"
            if rung.alone is None or (use == "erase" and not said):
                continue
            own, alone = _accuracy(run, name), _accuracy(run, rung.alone)
            if own is not None and alone is not None:
                labels = run.parent.name.removeprefix("labels")
                yield Case(folder.name, labels, use, said, own - alone)


def _discovered(folder: Path) -> str:
    """Say what was found in each run of a ladder, and how it goes with what is known of it."""
    lines = []
    for run in sorted(folder.glob("*/seed*")):
        stage = StageFolder(run, "cluster")
        if stage.complete and (erasures := read_erasures(stage)) is not None:
            codes = Codes.load(run / "disentangle" / "codes", "code")
            rows = np.concatenate([codes.rows("train"), codes.rows(UNLABELLED)])
            groups = [task.labels[rows] for task in load_tasks(stage.path)]
            agree = {
                name: np.mean(
                    [normalized_mutual_info_score(codes.factor(name)[rows], g) for g in groups]
                )
                for name in codes.info.names
            }
            said = "erase" if erasures["verdict"]["found"] else "leave"
            told = ", ".join(f"{name} {value:.2f}" for name, value in agree.items())
            sizes = " + ".join(str(len(np.unique(each))) for each in groups)
            lines.append(
                f"{folder.name}/{run.relative_to(folder)}: {said}, {sizes} groups, NMI {told}"
            )
    return "\n".join(lines) + "\n"


def _accuracy(run: Path, rung: str) -> float | None:
    """Mean over the networks of a rung; None where none has finished."""
    stages = [
        StageFolder(run, str(path.relative_to(run))) for path in run.glob(f"multitask/{rung}/seed*")
    ]
    told = [read_scores(each)["test/accuracy/principal"] for each in stages if each.complete]
    return float(np.mean(told)) if told else None


def _calibration(cases: Sequence[Case]) -> str:
    """Tabulate what was said by what came of it."""
    lines = ["| use | labels a class | said | cases | gain > 0 | 0 | < 0 | mean gain [points] |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    every = sorted({(case.use, case.labels) for case in cases})
    for use, labels in every:
        for said in (True, False):
            gains = [
                case.gain
                for case in cases
                if (case.use, case.labels, case.said) == (use, labels, said)
            ]
            if gains:
                signs = [sum(np.sign(gains) == sign) for sign in (1, 0, -1)]
                words = "erase" if said else "leave"
                cells = [use, labels, words, len(gains), *signs, _told(gains)]
                lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _by_task(cases: Sequence[Case]) -> str:
    """Tabulate what following the verdict is worth against always erasing, means of the splits."""
    lines = ["| principal | labels a class | by the verdict | always erased |", "|---|---|---|---|"]
    policies: dict[str, list[tuple[float, float]]] = {}
    for task, labels in sorted({(case.task, case.labels) for case in cases}):
        own = [case for case in cases if (case.task, case.labels) == (task, labels)]
        followed = [case.gain * case.said for case in own]
        always = [case.gain for case in own]
        lines.append(f"| {task}, {len(own)} | {labels} | {_told(followed)} | {_told(always)} |")
        for name in ("all", *([] if task == IN_SAMPLE else [f"all but {IN_SAMPLE}"])):
            means = float(np.mean(followed)), float(np.mean(always))
            policies.setdefault(name, []).append(means)
    for name, means in policies.items():
        followed, always = np.mean(means, axis=0)
        lines.append(f"| mean of {name} | | {100 * followed:+.2f} | {100 * always:+.2f} |")
    return "\n".join(lines) + "\n"


def _told(gains: Sequence[float]) -> str:
    error = np.std(gains, ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return f"{100 * np.mean(gains):+.1f} ± {100 * error:.1f}"


if __name__ == "__main__":
    main()
