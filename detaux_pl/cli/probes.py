"""`detaux probes`: the linear probes of several runs in one table."""

from __future__ import annotations

from pathlib import Path

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import OK
from detaux_pl.cli.seed_groups import GROUPS, read_evaluated, read_groups
from detaux_pl.cli.table import PlainParser, form_of, put_out
from detaux_pl.evaluation.results import Probes, read_probes
from detaux_pl.report.grid import WRITERS
from detaux_pl.report.probe_table import collate, lay_out
from detaux_pl.settings.choices import closest


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
    form = form_of(given.format, given.output, tuple(WRITERS))
    groups = _read_groups([Path(name) for name in given.run_dirs])
    if given.against is not None and given.against not in groups:
        raise UserError(f"--against is {given.against!r}: {closest(given.against, list(groups))}")
    study = collate(groups, given.against)
    put_out(WRITERS[form](lay_out(study, given.layout)), given.output)
    return OK


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="detaux probes",
        description="The linear probes of several runs in one table: means over seeds, with the "
        "variance over them in brackets.",
        epilog=GROUPS,
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
    parser.add_argument(
        "--format", choices=tuple(WRITERS),
        help="by default what the name of the output says, else text",
    )  # fmt: skip
    parser.add_argument("--output", metavar="FILE", help="file to write instead of the terminal")
    return parser


def _read_groups(run_dirs: list[Path]) -> dict[str, list[Probes]]:
    """Read the probes of every run, by group.

    Raises:
        UserError: If runs cannot be grouped, or one has other tasks than the first.
        ArtifactError: If a run has no finished probes.
    """
    groups = read_groups(
        run_dirs,
        lambda run_dir: read_evaluated(run_dir, "probes.json", "linear probes", read_probes),
    )
    first, tasks = run_dirs[0], None
    for runs in groups.values():
        for run_dir, probes in runs.items():
            tasks = tasks or probes["tasks"]
            if probes["tasks"] != tasks:
                raise UserError(
                    f"{run_dir} was probed on {', '.join(probes['tasks'])}, but {first} on "
                    f"{', '.join(tasks)}: run `detaux evaluate` with the same --tasks in both."
                )
    return {name: list(runs.values()) for name, runs in groups.items()}
