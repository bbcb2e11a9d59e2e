"""`detaux compare`: the arms of one or several runs in one table."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detaux_pl.artifacts.codes import read_codes_info
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import OK
from detaux_pl.artifacts.stage import StageFolder, first_difference
from detaux_pl.cli.table import PlainParser, form_of, put_out
from detaux_pl.evaluation.compare import Arm, Kind, compare
from detaux_pl.evaluation.results import Cost, read_scores
from detaux_pl.report.compare_table import to_latex, to_markdown, to_rich
from detaux_pl.report.wording import SHUFFLED, plural
from detaux_pl.settings.build import DataConfig
from detaux_pl.settings.choices import closest
from detaux_pl.settings.names import arm_folders

_DEFAULT = "single_task"
_FORMS = ("text", "markdown", "latex", "html")


@dataclass(frozen=True)
class _Training:
    """One finished training."""

    seed: int
    metrics: dict[str, float]
    cost: Cost | None


@dataclass(frozen=True)
class _Run:
    """What a run folder says of its finished trainings, and names of those that are not."""

    folder: Path
    trainings: dict[str, list[_Training]]
    kinds: dict[str, Kind]
    unfinished: list[str]
    principal: str | None
    n_classes: int | None
    data: dict[str, Any]


def run(args: list[str]) -> int:
    """Run `detaux compare`.

    Args:
        args: Arguments of the command.

    Returns:
        The exit code 0.

    Raises:
        UserError: If an argument does not fit, or the runs do not belong in one table.
    """
    given = _parser().parse_intermixed_args(args)
    form = form_of(given.format, given.output, _FORMS)
    folders = [Path(name) for name in given.run_dirs]
    _refuse_twice(folders)
    runs = dict(zip(_short_names(folders), map(_read_run, folders), strict=True))
    lines = [*_check_same_task(runs), *_unfinished(runs)]
    arms, without = _score(runs, given.metric, given.task)
    if without:
        lines.append(f"without the task {given.task}, left out: {', '.join(without)}")
    compared = compare(arms, _reference(arms, given.against), given.metric, given.task)
    if form == "html":
        # matplotlib takes longer to import than all that a table in the terminal needs.
        from detaux_pl.report.compare_page import render_comparison

        content: Any = render_comparison(
            compared,
            next((run.principal for run in runs.values() if run.principal), given.task),
            {name: str(run.folder) for name, run in runs.items()},
            lines,
            shlex.join(["detaux", "compare", *args]),
        )
    else:
        writers: dict[str, Any] = {"text": to_rich, "markdown": to_markdown, "latex": to_latex}
        content = writers[form](compared)
    put_out(content, given.output)
    for line in lines:
        print(line, file=sys.stderr)
    return OK


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="detaux compare",
        description="The arms of one or several runs in one table: test score over seeds, paired "
        "tests against one of them, and what their training costs.",
    )
    parser.add_argument(
        "run_dirs", nargs="+", metavar="RUN_DIR", help="run folder with finished trainings"
    )
    parser.add_argument(
        "--against", metavar="ARM",
        help="arm that the others are tested against, named as in the table; by default "
        f"{_DEFAULT} of the first run that has it",
    )  # fmt: skip
    parser.add_argument("--metric", choices=("accuracy", "f1"), default="accuracy")
    parser.add_argument(
        "--task", default="principal", help="task whose test score is compared (principal)"
    )
    parser.add_argument(
        "--format", choices=_FORMS,
        help="by default what the name of the output says, else text; html is a page with figures",
    )  # fmt: skip
    parser.add_argument("--output", metavar="FILE", help="file to write instead of the terminal")
    return parser


def _refuse_twice(folders: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"{folder} is given twice: give each run once.")
        seen.add(folder.resolve())


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Name each run by as many of its last folders as tell it from the others."""
    parts = [folder.resolve().parts[1:] or ("run",) for folder in folders]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(own[-length:] == p[-length:] for p in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def _read_run(folder: Path) -> _Run:
    """Read the finished trainings of a run.

    Raises:
        UserError: If the folder is no run, or nothing in it is finished.
        ArtifactError: If a result was changed.
    """
    room = folder / "multitask"
    if not room.is_dir() and not (folder / "disentangle").is_dir():
        raise UserError(f"{folder} is no run folder: it has no trained arm.")
    trainings: dict[str, list[_Training]] = {}
    kinds: dict[str, Kind] = {}
    unfinished: list[str] = []
    data: dict[str, Any] | None = None
    found = [
        (arm, int(path.name[4:]), path)
        for arm, own in arm_folders(folder).items()
        for path in own.glob("seed*")
        if re.fullmatch(r"seed\d+", path.name)
    ]
    for arm, seed, path in sorted(found):
        stage = StageFolder(folder, path.relative_to(folder).as_posix())
        if not stage.complete:
            unfinished.append(f"{arm} seed {seed}" + (" (diverged)" if stage.diverged else ""))
            continue
        cost = stage.read("cost.json", Cost) if (path / "cost.json").is_file() else None
        trainings.setdefault(arm, []).append(_Training(seed, read_scores(stage), cost))
        if arm not in kinds:
            config = stage.read("config.yaml", DataConfig)
            kinds[arm] = _kind(config, trainings[arm][0].metrics)
            data = data or _data_of(stage)
    if not trainings:
        raise UserError(f"{folder} has no finished training: run `detaux fit` to its end first.")
    data = data or {}
    principal, n_classes = _principal_task(folder)
    if principal is None:
        principal = data.get("init_args", {}).get("dataset", {}).get("init_args", {}).get(
            "principal"
        )  # fmt: skip
    return _Run(folder, trainings, kinds, unfinished, principal, n_classes, data)


def _kind(config: DataConfig, metrics: dict[str, float]) -> Kind:
    """Tell from what labels an arm learns; one of the principal task alone learns no others."""
    auxiliary = config["data"].get("init_args", {}).get("auxiliary", "discovered")
    if auxiliary == "discovered" or not any("/auxiliary" in name for name in metrics):
        return ""
    return "control" if auxiliary == SHUFFLED else "ceiling"


def _settings(stage: StageFolder) -> dict[str, Any]:
    manifest = stage.manifest
    return {} if manifest is None else manifest["settings"]


def _data_of(stage: StageFolder) -> dict[str, Any]:
    """The settings of the data that all arms and seeds of a run share, without places."""
    settings = _settings(stage)
    data = settings.get("data", {})
    init_args = data.get("init_args", {})
    own = {name: v for name, v in init_args.items() if name not in ("auxiliary", "seed")}
    before = _settings(StageFolder(stage.run_dir, "disentangle"))
    files = settings.get("files") or before.get("files")
    return {**data, "init_args": own, "files": files}


def _principal_task(folder: Path) -> tuple[str | None, int | None]:
    """Name and number of classes of the principal task, where the codes tell."""
    path = folder / "disentangle" / "codes" / "codes.json"
    if not path.is_file():
        return None, None
    info = read_codes_info(path.parent)
    sizes = dict(zip(info["factor_names"], info["factor_sizes"], strict=True))
    return info["principal"], sizes[info["principal"]]


def _check_same_task(runs: dict[str, _Run]) -> Iterable[str]:
    """Say in which settings the data of the runs differ.

    Raises:
        UserError: If they classify different things.
    """
    (first, reference), *others = runs.items()
    for name, other in others:
        for what, ours, theirs in (
            ("principal task", other.principal, reference.principal),
            ("number of classes", other.n_classes, reference.n_classes),
        ):
            if None not in (ours, theirs) and ours != theirs:
                raise UserError(
                    f"the {what} of {name} is {ours}, that of {first} {theirs}: compare runs of "
                    "one task."
                )
        change = first_difference(reference.data, other.data)
        if change is not None:
            change = change.removeprefix("init_args.")
            yield f"{first} and {name} differ in their data: {change}"


def _unfinished(runs: dict[str, _Run]) -> list[str]:
    names = [
        training if len(runs) == 1 else f"{name}/{training}"
        for name, run in runs.items()
        for training in run.unfinished
    ]
    if not names:
        return []
    return [f"{plural(len(names), 'unfinished training')}, left out: {', '.join(names)}"]


def _score(runs: dict[str, _Run], metric: str, task: str) -> tuple[list[Arm], list[str]]:
    """Pick the score of every arm; name the arms that have none.

    Raises:
        UserError: If no arm has it.
    """
    key = f"test/{metric}/{task}"
    arms: list[Arm] = []
    without: list[str] = []
    tasks: dict[str, None] = {}
    for name, run in runs.items():
        for arm, trainings in run.trainings.items():
            known = {each.seed: each.metrics[key] for each in trainings if key in each.metrics}
            for each in trainings:
                tasks |= dict.fromkeys(
                    k.rsplit("/", 1)[1] for k in each.metrics if k.startswith("test/accuracy/")
                )
            if not known:
                without.append(arm if len(runs) == 1 else f"{name}/{arm}")
                continue
            costs = [each.cost for each in trainings if each.cost is not None]
            arms.append(Arm(name, arm, run.kinds[arm], known, costs))
    if not arms:
        raise UserError(
            f"no training has the {metric} of --task {task!r}: {closest(task, [*tasks])}"
        )
    return arms, without


def _reference(arms: Sequence[Arm], against: str | None) -> Arm:
    """Pick the arm that the others are tested against.

    Raises:
        UserError: If there is none of that name.
    """
    names = [f"{arm.run}/{arm.arm}" for arm in arms]
    if against is None:
        return next((arm for arm in arms if arm.arm == _DEFAULT), arms[0])
    for arm, name in zip(arms, names, strict=True):
        if against in (name, arm.arm):
            return arm
    short = len({arm.run for arm in arms}) == 1
    allowed = [arm.arm for arm in arms] if short else names
    raise UserError(f"--against is {against!r}: {closest(against, allowed)}")
