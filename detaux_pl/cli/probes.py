"""`detaux probes`: the linear probes of several runs in one table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import read_json
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.main import OK
from detaux_pl.cli.parser import closest
from detaux_pl.cli.table import PlainParser, put_out
from detaux_pl.evaluation.probe_table import (
    Layout,
    Study,
    collate,
    to_html,
    to_latex,
    to_markdown,
    to_rich,
)

_WRITERS: dict[str, Callable[[Study, Layout], Table | str]] = {
    "text": to_rich, "markdown": to_markdown, "latex": to_latex, "html": to_html,
}  # fmt: skip


def run(args: list[str]) -> int:
    """Run `detaux probes`.

    Args:
        args: Arguments of the command.

    Returns:
        The exit code 0.

    Raises:
        UserError: If an argument does not fit, or a run has no probes or others than the first.
    """
    given = _parser().parse_intermixed_args(args)
    groups = _read_groups([Path(name) for name in given.run_dirs])
    if given.against is not None and given.against not in groups:
        raise UserError(f"--against is {given.against!r}: {closest(given.against, list(groups))}")
    study = collate(groups, given.against)
    put_out(_WRITERS[given.format](study, given.layout), given.output)
    return OK


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="detaux probes",
        description="The linear probes of several runs in one table: means over seeds, with the "
        "variance over them in brackets.",
        epilog="Run folders named seed<k> are the seeds of one group, named after the folder that "
        "holds them; any other run folder is a group of its own.",
    )
    parser.add_argument(
        "run_dirs", nargs="+", metavar="RUN_DIR", help="run folder that `detaux evaluate` finished"
    )
    parser.add_argument(
        "--against", metavar="GROUP", help="group without a regulariser, to which R3 refers"
    )
    parser.add_argument(
        "--layout", choices=("accuracies", "summary"), default="accuracies",
        help="accuracies of the whole and of every slice, or a line per group with gaps and "
        "requirements",
    )  # fmt: skip
    parser.add_argument("--format", choices=tuple(_WRITERS), default="text")
    parser.add_argument("--output", metavar="FILE", help="file to write instead of the terminal")
    return parser


def _read_groups(run_dirs: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Read the probes of every run, by group.

    Raises:
        UserError: If a run is given twice or has other tasks than the first one, or two groups
            have one name.
        ArtifactError: If a run has no finished probes.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    first: tuple[Path, list[str]] | None = None
    seen: set[Path] = set()
    single: set[str] = set()
    for run_dir in run_dirs:
        here = run_dir.resolve()
        if here in seen:
            raise UserError(f"{run_dir} is given twice: give each run once.")
        seen.add(here)
        probes = _read_probes(run_dir)
        first = first or (run_dir, probes["tasks"])
        if probes["tasks"] != first[1]:
            raise UserError(
                f"{run_dir} was probed on {', '.join(probes['tasks'])}, but {first[0]} on "
                f"{', '.join(first[1])}: run `detaux evaluate` with the same --tasks in both."
            )
        seed = re.fullmatch(r"seed\d+", here.name) is not None
        name = here.parent.name if seed else here.name
        if name in single or (not seed and name in groups):
            raise UserError(f"two groups are named {name!r}, one of them of {run_dir}: rename it.")
        if not seed:
            single.add(name)
        groups.setdefault(name, []).append(probes)
    return groups


def _read_probes(run_dir: Path) -> dict[str, Any]:
    folder = StageFolder(run_dir, "evaluate")
    if not folder.complete:
        raise ArtifactError(
            f"{run_dir} has no finished linear probes: run `detaux evaluate --run_dir {run_dir}`."
        )
    folder.verify()
    probes: dict[str, Any] = read_json(folder.path / "probes.json")
    return probes
