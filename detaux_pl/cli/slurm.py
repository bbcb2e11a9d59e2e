"""`detaux slurm`: a chain as SLURM scripts, one job a stage, the arms as an array."""

from __future__ import annotations

import sys
from pathlib import Path

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import OK
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.lock import run_lock
from detaux_pl.cli.table import PlainParser
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.checks import build_all, check_folders
from detaux_pl.pipeline.costs import Costs
from detaux_pl.pipeline.forecast import foresee
from detaux_pl.pipeline.given import with_config
from detaux_pl.pipeline.plan import plan_jobs
from detaux_pl.pipeline.slurm import read_resources, refuse_folder, write_scripts
from detaux_pl.settings.places import remember_places

_RESOURCES = {
    "cpus": "cores (4)",
    "gpus": "GPUs of each machine (those that the trainer of the stage names)",
    "nodes": "machines that train one network together, such as disentangle=2 (1)",
    "mem": "memory of each machine (8G)",
    "time": "longest time (twice what is expected, see `detaux fit`, and 10 minutes)",
    "sbatch": "a further option of sbatch, such as --sbatch=--partition=long",
}


def run(args: list[str]) -> int:
    """Run `detaux slurm`.

    Args:
        args: Arguments of the command.

    Returns:
        The exit code 0.

    Raises:
        UserError: If the settings do not fit, the run folder was made with others, or the output
            folder holds something else.
    """
    given, words = _parser().parse_known_args(args)
    chain = parse(with_config(words))
    for name in ("redo", "until"):
        if chain.config[name] is not None:
            raise UserError(
                f"--{name} is {chain.config[name]!r}: scripts run every stage, leave it out."
            )
    output = Path(given.output or f"{chain.run_dir}_slurm")
    refuse_folder(output, chain.run_dir)
    wanted = {name: getattr(given, name) for name in _RESOURCES}
    read_resources(wanted, plan_jobs(chain), {})  # before anything is timed
    with run_lock(chain.run_dir):
        chain = build_all(chain)
        plan = plan_jobs(chain)
        check_folders(chain, plan, None)
        remember_places(chain.run_dir, chain.config["disentangle"]["data"])
        write_text(chain.run_dir / "config.yaml", chain.source)
        forecast, line = foresee(chain, plan, Costs())
        write_scripts(chain, plan, read_resources(wanted, plan, forecast.costs), output)
    if line:
        print(line, file=sys.stderr)
    print(f"{output / 'submit.sh'} submits the jobs.", file=sys.stderr)
    return OK


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="detaux slurm",
        allow_abbrev=False,
        description="SLURM scripts of a chain: one job a stage, each after the one before, the "
        "arms as an array (at most --jobs at once); submit.sh submits them. A resource is that of "
        "all stages, or with STAGE= before it of one: --mem 8G --mem multitask=16G. All other "
        "arguments are those of `detaux fit`.",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="where to; by default the run folder with _slurm"
    )
    for name, about in _RESOURCES.items():
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="[STAGE=]VALUE", help=about
        )
    return parser
