"""`detaux predict`: what the networks of a run, or of a bundle, say of any images."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import MEND, OK
from detaux_pl.artifacts.files import replacing
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.cli.table import PlainParser, form_of

_FORMS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""Which form the name of a file asks for."""
_KNOWN = tuple(dict.fromkeys(_FORMS.values()))


def run(args: list[str]) -> int:
    """Run `detaux predict`.

    Args:
        args: Arguments of the command.

    Returns:
        The exit code 0, or 3 where images cannot be read.

    Raises:
        UserError: If an argument does not fit.
    """
    given = _parser().parse_intermixed_args(args)
    form = _form(given)
    # Not before: they import torch, and words that do not fit are refused without it.
    from detaux_pl.inference.open import open_classifier, pick_device
    from detaux_pl.inference.sources import count, image_paths
    from detaux_pl.inference.stream import classify
    from detaux_pl.inference.writers import WRITERS, columns_of, row_of

    device = pick_device(given.accelerator)
    paths = image_paths(given.images, given.column)
    classifier = open_classifier(Path(given.run_dir), given.arm, given.seeds).to(device)
    tasks = list(classifier.card.tasks)
    top_k = min(given.top_k, len(classifier.classes))
    total = count(given.images, given.column) if sys.stderr.isatty() else None
    failed = 0
    with _output(given.output) as handle, progress_bar("images", total) as advance:
        writer = WRITERS[form](handle, columns_of(tasks, top_k))
        for told in classify(classifier, paths, top_k, given.batch_size, given.num_workers):
            writer.write(row_of(told, tasks, top_k))
            failed += told.error is not None
            advance(1)
        writer.close()
    if failed:
        where = "see the column error" if given.output else "see the rows with an error"
        print(f"{failed:,} image{'s' * (failed > 1)} cannot be read: {where}", file=sys.stderr)
    return MEND if failed else OK


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="detaux predict",
        description="Classify images by the networks of a finished run, all seeds of an arm "
        "together, or by an exported bundle. A row an image: path, class, calibrated probability, "
        "the discovered group.",
    )
    parser.add_argument("run_dir", metavar="RUN", help="run folder, or a bundle of `detaux export`")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES",
        help="files, folders (with all below them), tables with a column of paths (.csv, .tsv, "
        ".parquet), or - for paths on standard input",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="FILE", help="file to write; by default standard output"
    )
    parser.add_argument(
        "--format", choices=_KNOWN,
        help="by default what the name of the output says, else csv",
    )  # fmt: skip
    parser.add_argument("--top_k", type=_positive, default=1, help="classes to name (1)")
    parser.add_argument("--arm", help="arm of the run; by default the main one")
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="SEED",
        help="seeds whose networks answer together; by default all",
    )  # fmt: skip
    parser.add_argument("--column", default="path", help="column of a table with paths (path)")
    parser.add_argument(
        "--batch_size", type=_positive, default=64, help="images that networks see at a time (64)"
    )
    parser.add_argument(
        "--num_workers", type=_natural, default=min(8, os.cpu_count() or 1),
        help="threads that read images (one per core, at most 8)",
    )  # fmt: skip
    parser.add_argument(
        "--accelerator", default="auto", help="auto, cpu, or what torch has here: cuda, mps, xpu"
    )
    return parser


def _form(given: Namespace) -> str:
    form = form_of(given.format, given.output, _KNOWN, _FORMS, "predictions are")
    if form == "parquet" and given.output is None:
        raise UserError("--format is parquet, which is not for standard output: give --output.")
    return form


@contextmanager
def _output(name: str | None) -> Iterator[IO[bytes]]:
    """Open the file, which has its name when all is written, or standard output."""
    if name is None:
        with nullcontext(sys.stdout.buffer) as handle:
            yield handle
            handle.flush()
        return
    path = Path(name)
    if path.is_dir():
        raise UserError(f"--output is {name}, which is a folder: give the name of a file.")
    with replacing(path) as temporary, temporary.open("wb") as file:
        yield file


def _positive(text: str) -> int:
    return _at_least(1, text)


def _natural(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise ArgumentTypeError(f"it is {text!r}: give a whole number from {least} on.")
    return value
