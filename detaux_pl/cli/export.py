"""`detaux export`: the classifier of a run as files that need no run, and no package of ours."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from rich.table import Table

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import OK
from detaux_pl.artifacts.files import replacing_folder
from detaux_pl.artifacts.space import size_text
from detaux_pl.cli.table import PlainParser, put_out

_FORMATS = ("safetensors", "onnx", "pt2")


def run(args: list[str]) -> int:
    """Run `detaux export`.

    Args:
        args: Arguments of the command.

    Returns:
        The exit code 0.

    Raises:
        UserError: If an argument does not fit, or a file answers otherwise than the networks.
    """
    given = _parser().parse_intermixed_args(args)
    seeds = _seeds(given.seeds)
    # Not before: they import torch, and words that do not fit are refused without it.
    from detaux_pl.inference.bundle import is_bundle
    from detaux_pl.inference.export import Chosen, refuse_folder, write_bundle
    from detaux_pl.inference.hub import refuse_hub, upload
    from detaux_pl.inference.run import Run
    from detaux_pl.report.model_card import model_card

    run_dir, folder = Path(given.run_dir), Path(given.folder)
    refuse_folder(folder)
    graphs = _graphs(given)
    if given.hub is not None:
        refuse_hub(given.hub)
    if is_bundle(run_dir):
        raise UserError(f"{run_dir} is a bundle already: give the folder of a run.")
    chosen = Chosen.of(Run(run_dir), given.arm, seeds)
    tell(f"{chosen.arm}, seeds {', '.join(map(str, chosen.seeds))}")
    with replacing_folder(folder) as temporary:
        parity = write_bundle(chosen, graphs, model_card, temporary, tell)
    differences = {name: max(each.values()) for name, each in parity["files"].items()}
    put_out(_table(folder, differences), None)
    if given.hub is not None:
        tell(f"uploading to {given.hub}")
        tell(f"uploaded to {upload(folder, given.hub)}, which is private if it is new")
    return OK


def tell(line: str) -> None:
    """Say what is done, where results do not go."""
    print(line, file=sys.stderr, flush=True)


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="detaux export",
        description="Write the networks of a finished run, all seeds of an arm together, as a "
        "bundle: weights (model.safetensors, model.json), one graph from images to probabilities "
        "(model.onnx, model.pt2), a model card (README.md) and how they compare (parity.json).",
    )
    parser.add_argument("run_dir", metavar="RUN", help="run folder")
    parser.add_argument(
        "folder", metavar="FOLDER", help="folder to write: a new or empty one, or an older bundle"
    )
    parser.add_argument(
        "--format", action="append", choices=_FORMATS,
        help="onnx or pt2, by default both; safetensors for the weights alone, which are always "
        "written",
    )  # fmt: skip
    parser.add_argument("--arm", help="arm of the run; by default the main one")
    parser.add_argument(
        "--seeds", nargs="+", metavar="SEED", default=["all"],
        help="seeds whose networks answer together; by default all",
    )  # fmt: skip
    parser.add_argument(
        "--hub", metavar="OWNER/NAME", help="upload it to the hub of Hugging Face, too"
    )
    return parser


def _seeds(given: list[str]) -> list[int] | None:
    if given == ["all"]:
        return None
    try:
        return [int(word) for word in given]
    except ValueError:
        raise UserError(f"--seeds is {' '.join(given)}: give all, or whole numbers.") from None


def _graphs(given: Namespace) -> list[str]:
    """Return which graphs to write; by default all that can be written here."""
    from detaux_pl.inference.graph import refuse_without_onnx

    wanted = [name for name in _FORMATS[1:] if given.format is None or name in given.format]
    if "onnx" in wanted:
        try:
            refuse_without_onnx()
        except UserError as error:
            if given.format is not None:
                raise
            tell(f"model.onnx is left out: {error}")
            wanted.remove("onnx")
    return wanted


def _table(folder: Path, differences: dict[str, float]) -> Table:
    table = Table(title=f"{folder}", title_justify="left")
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("largest difference from PyTorch", justify="right")
    for path in sorted(folder.iterdir()):
        told = f"{differences[path.name]:.1e}" if path.name in differences else ""
        table.add_row(path.name, size_text(path.stat().st_size), told)
    return table
