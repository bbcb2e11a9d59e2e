"""`detaux metrics`: the disentanglement metrics of several runs in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.exit_codes import OK
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.seed_groups import GROUPS, read_evaluated, read_groups
from detaux_pl.cli.table import PlainParser, form_of, put_out
from detaux_pl.evaluation.results import Metrics, read_metrics
from detaux_pl.metrics.udr import udr
from detaux_pl.report.grid import WRITERS
from detaux_pl.report.metric_table import collate, lay_out


def run(args: list[str]) -> int:
    """Run `detaux metrics`.

    Args:
        args: Arguments of the command.

    Returns:
        The exit code 0.

    Raises:
        UserError: If an argument does not fit, or a run has no metrics or by other factors than
            the first.
    """
    given = _parser().parse_intermixed_args(args)
    form = form_of(given.format, given.output, tuple(WRITERS))
    groups = read_groups([Path(name) for name in given.run_dirs], _read)
    ranked = {name: _rank(list(runs)) for name, runs in groups.items() if len(runs) > 1}
    study = collate(
        {name: list(runs.values()) for name, runs in groups.items()},
        {name: scores for name, scores in ranked.items() if scores},
    )
    put_out(WRITERS[form](lay_out(study)), given.output)
    return OK


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="detaux metrics",
        description="The disentanglement metrics of several runs in one table: means over seeds, "
        "with the variance over them in brackets, and how much seeds agree (UDR).",
        epilog=GROUPS,
    )
    parser.add_argument(
        "run_dirs", nargs="+", metavar="RUN_DIR", help="run folder that `detaux evaluate` finished"
    )
    parser.add_argument(
        "--format", choices=tuple(WRITERS),
        help="by default what the name of the output says, else text",
    )  # fmt: skip
    parser.add_argument("--output", metavar="FILE", help="file to write instead of the terminal")
    return parser


def _read(run_dir: Path) -> Metrics:
    """Read the metrics of a run.

    Raises:
        ArtifactError: If it has none.
    """
    metrics = read_evaluated(run_dir, "metrics.json", "metrics", read_metrics)
    if not metrics["scores"]["dim"] and not metrics["left_out"]:
        raise ArtifactError(
            f"{run_dir} was evaluated without metrics: run `detaux evaluate --run_dir {run_dir} "
            "--redo evaluate`."
        )
    return metrics


def _rank(run_dirs: Sequence[Path]) -> list[float]:
    """Rank models by how much they agree; none where their codes are gone or of other samples."""
    for run_dir in run_dirs:
        if (stage := StageFolder(run_dir, "disentangle/codes")).complete:
            stage.verify()
    try:
        for run_dir in run_dirs:
            StageFolder(run_dir, "evaluate").check_inputs()
        codes = [Codes.load(run_dir / "disentangle" / "codes") for run_dir in run_dirs]
    except ArtifactError:
        return []
    rows = [each.rows("test") for each in codes]
    ids = [each.ids[own] for each, own in zip(codes, rows, strict=True)]
    if not all(np.array_equal(own, ids[0]) for own in ids):
        return []
    models = [each.values[own].reshape(len(own), -1) for each, own in zip(codes, rows, strict=True)]
    scores: list[float] = udr(models).tolist()
    return scores
