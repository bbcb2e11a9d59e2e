"""`detaux data`: look at the data set of a chain before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detaux_pl.artifacts.codes import LABELLED, UNLABELLED
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import MEND, OK
from detaux_pl.artifacts.files import replacing, write_json
from detaux_pl.artifacts.space import size_text
from detaux_pl.artifacts.terminal import terminal
from detaux_pl.data.batch import Batch
from detaux_pl.data.demands import refusals
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.inspection import Finding, Inspection, inspect_dataset
from detaux_pl.data.modules import FactorDataModule, PairDataModule
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.checks import reached, refuse_few_for_nets
from detaux_pl.pipeline.given import with_config
from detaux_pl.pipeline.job import Chain
from detaux_pl.report.sheets import SheetRow, strip_sheet
from detaux_pl.report.style import PALETTE, to_png
from detaux_pl.settings.build import build
from detaux_pl.settings.parser import explain

HELP = """\
usage: detaux data {check,show} --config FILE [--KEY VALUE ...]

Look at the data set of a chain's config before anything is trained.

  check    counts, sizes, unreadable files, duplicates, memory; all of it in data/check.json
  show     pictures: data/contact_sheet.png and data/pairs.png

Both take what `detaux fit` takes, write to the same run folder and fill the image cache.
Exit codes of check: 0 nothing to mend, 3 something to mend.
"""

_SHOWN = 12
"""Most classes of a table or a sheet, and most pairs."""
_NAMED = 3
"""Names of files or classes that the terminal shows of a finding."""
_IMAGES = 10
"""Images of a class in the contact sheet."""


def run(args: list[str]) -> int:
    """Run `detaux data check` or `detaux data show`.

    Args:
        args: Arguments of the command.

    Returns:
        The exit code: 0, or 3 where the check found something to mend.

    Raises:
        UserError: If the settings do not fit, or the data are missing.
    """
    commands = ("check", "show")
    if {"-h", "--help"} & set(args):
        print(HELP)
        return OK
    if not args or args[0] not in commands:
        got = repr(args[0]) if args else "no command"
        raise UserError(f"`detaux data` got {got}: choose one of {', '.join(commands)}.")
    chain = parse(with_config(args[1:]))
    folder = chain.run_dir / "data"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{chain.run_dir} cannot be used as a run folder ({error.strerror}): give another "
            "--run_dir."
        ) from None
    config = chain.config["disentangle"]["data"]
    # One batch at most is read, on the CPU.
    here = {"num_workers": 0, "device_resident": False}
    config = {**config, "init_args": {**config["init_args"], **here}}
    try:
        data: FactorDataModule = build(FactorDataModule, config)
        data.describe()
    except (ValueError, TypeError) as error:
        raise explain(error, chain.config) from error
    return _show(data, folder) if args[0] == "show" else _check(chain, data, folder)


def _check(chain: Chain, data: FactorDataModule, folder: Path) -> int:
    trainings = list(_trainings(chain, data))
    found = inspect_dataset(
        data.dataset,
        (data.n_views, data.batch_size, *data.image_shape),
        paired=any(isinstance(each.data, PairDataModule) for each in trainings),
        demands=lambda: dict.fromkeys(_demands(chain, trainings)),
    )
    console = terminal()
    n_images = int(found.counts.sum()) + found.n_unlabelled
    console.print(Text.assemble((found.dataset, "bold"), f", {n_images:,} images"))
    console.print(_classes_table(found))
    console.print(_facts_table(found))
    if found.memory.cache is not None:
        text = f"cache: {found.memory.cache}, {size_text(found.memory.cache_free)} free there"
        console.print(text, soft_wrap=True)
    for finding in found.findings:
        _print_finding(console, finding)
    path = folder / "check.json"
    write_json(path, _as_json(found))
    console.print(f"in full: {path}", soft_wrap=True)
    n = found.n_to_mend
    verdict = f"{n} {'thing' if n == 1 else 'things'} to mend" if n else "nothing to mend"
    console.print(verdict, style="bold red" if n else "bold green")
    return MEND if n else OK


class _Training(NamedTuple):
    """A training of the chain: the stage, its data and the number of its ranks."""

    stage: str
    data: FactorDataModule
    world: int


def _trainings(chain: Chain, data: FactorDataModule) -> Iterator[_Training]:
    """Give what the chain trains, once for each way to take its data; all share one data set."""
    seen: list[Any] = []
    stages = [("disentangle", config) for config in chain.configs("disentangle")]
    stages += [("multitask", configs[0]) for configs in chain.arms.values()]
    for stage, config in stages:
        if not reached(chain, stage):
            continue
        devices = str(config["trainer"]["devices"])
        world = int(devices) if devices.isdecimal() else 1  # auto is as many as there are
        if (stage, config["data"], world) in seen:
            continue
        seen.append((stage, config["data"], world))
        try:
            module: FactorDataModule = build(FactorDataModule, config["data"])
        except (ValueError, TypeError) as error:
            raise explain(error, chain.config) from error
        module.dataset = data.dataset
        try:
            module.describe()
        except (ValueError, TypeError) as error:
            raise explain(error, chain.config) from error
        yield _Training(stage, module, world)


def _demands(chain: Chain, trainings: Sequence[_Training]) -> Iterator[str]:
    """Say what of the data stands in the way of a training, but for what every one needs."""
    dataset = trainings[0].data.dataset
    told = [f"the {split} split of" for split in LABELLED if not dataset.rows(split).size]
    if np.unique(dataset.labels[dataset.rows("train")]).size < 2:
        return
    for stage, data, world in trainings:
        for line in refusals(data, world):
            if not line.startswith(tuple(told)):
                yield f"{stage}: {line}"
    try:
        refuse_few_for_nets(chain, len(dataset.rows("train")))
    except UserError as error:
        yield str(error)


def _classes_table(found: Inspection) -> Table:
    """Count the images of the classes, of many only those that are rarest in train."""
    totals = found.counts.sum(axis=0)
    capped = len(found.classes) > 2 * _SHOWN
    order = np.argsort(found.counts[:, 0], kind="stable")
    chosen = order[:_SHOWN] if capped else np.arange(len(found.classes))
    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    table.add_column(Text(found.principal), "all", overflow="fold")
    for split, total in zip(LABELLED, totals.tolist(), strict=True):
        table.add_column(split, f"{total:,}", justify="right")
    for k in chosen.tolist():
        train, *held_out = found.counts[k].tolist()
        cells = [Text(f"{train:,}", style="red" if train < 2 else "")]
        cells += [Text(f"{n:,}", style="" if n else "yellow") for n in held_out]
        table.add_row(Text(found.classes[k]), *cells)
    if capped:
        more = len(order) - _SHOWN
        least, most = found.counts[order[_SHOWN]][0], found.counts[order[-1]][0]
        table.add_row(f"and {more} more", f"{least:,} to {most:,}", "", "", style="dim")
    return table


def _facts_table(found: Inspection) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _facts(found):
        table.add_row(Text(name), Text(text))
    return table


def _facts(found: Inspection) -> list[tuple[str, str]]:
    facts = [(f"factor {name}", f"{size:,} values") for name, size in found.others.items()]
    if found.n_unlabelled:
        facts.append((UNLABELLED, f"{found.n_unlabelled:,} images"))
    channels, height, width = found.image_shape
    facts.append(("images", f"{channels} x {height} x {width} (channels, height, width)"))
    headers = found.headers
    if headers is not None:
        for name, spread in (("height", headers.heights), ("width", headers.widths)):
            text = f"{spread.least} to {spread.most} pixels, median {spread.median}"
            facts.append((f"{name} of files", text))
        modes = ", ".join(f"{mode} {n:,}" for mode, n in headers.modes.items())
        facts.append(("modes of files", modes))
        if headers.turned:
            facts.append(("turned upright", f"{headers.turned:,} files, as their EXIF data say"))
    if found.values:
        facts.append(("value range", found.values))
    if found.near is not None and found.near.pairs:
        of = "" if found.near.compared == found.near.pairs else f" of {found.near.pairs:,}"
        text = f"{found.near.compared:,}{of} pairs of two splits, for what looks nearly the same"
        facts.append(("compared", text))
    memory = found.memory
    facts.append(("pixels", f"{size_text(memory.pixels)} as uint8, {memory.kept}"))
    if memory.kept != "read when needed":
        facts.append(("device_resident", f"{size_text(memory.pixels)} of the accelerator's memory"))
    facts.append(("training batch", f"{size_text(memory.batch)} as floats"))
    return facts


def _print_finding(console: Console, finding: Finding) -> None:
    word, style = ("mend", "bold red") if finding.mend else ("note", "yellow")
    console.print(Text.assemble((f"{word}  ", style), finding.what), soft_wrap=True)
    for name in finding.names[:_NAMED]:
        console.print(Text(f"      {_shorten(name, 200)}", style="dim"), soft_wrap=True)
    more = len(finding.names) - _NAMED
    if more > 0:
        console.print(Text(f"      and {more:,} more", style="dim"))


def _as_json(found: Inspection) -> dict[str, Any]:
    headers = found.headers
    return {
        "dataset": found.dataset,
        "image_shape": list(found.image_shape),
        "principal": found.principal,
        "counts": {
            name: dict(zip(LABELLED, row, strict=True))
            for name, row in zip(found.classes, found.counts.tolist(), strict=True)
        },
        **({UNLABELLED: found.n_unlabelled} if found.n_unlabelled else {}),
        "other_factors": found.others,
        "values": found.values,
        "files": None
        if headers is None
        else {
            "heights": headers.heights._asdict(),
            "widths": headers.widths._asdict(),
            "modes": headers.modes,
            "turned": headers.turned,
            "enlarged": len(headers.enlarged),
        },
        "memory": {
            "pixels": found.memory.pixels,
            "kept": found.memory.kept,
            "batch": found.memory.batch,
            "cache": None if found.memory.cache is None else str(found.memory.cache),
            "cache_free": found.memory.cache_free,
        },
        "compared": None
        if found.near is None
        else {"pairs": found.near.pairs, "compared": found.near.compared},
        "to_mend": found.n_to_mend,
        "findings": [
            {"mend": finding.mend, "what": finding.what, "names": list(finding.names)}
            for finding in found.findings
        ],
    }


def _show(data: FactorDataModule, folder: Path) -> int:
    data.prepare_data()
    data.setup("fit")
    console = terminal()
    sheets = (
        ("contact_sheet.png", _class_strips(data), 1),
        ("pairs.png", _pair_strips(data), 4),
    )
    for name, rows, columns in sheets:
        with warnings.catch_warnings():
            # A class may be named in a script that the font lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            png = to_png(strip_sheet(rows, columns))
        with replacing(folder / name) as temporary:
            temporary.write_bytes(png)
        console.print(str(folder / name), soft_wrap=True)
    return OK


def _class_strips(data: FactorDataModule) -> list[SheetRow]:
    """Draw images of some classes of the train split, evenly chosen."""
    dataset = data.dataset
    train = dataset.rows("train")
    labels = dataset.labels[train]
    present = np.unique(labels)
    chosen = np.linspace(0, len(present) - 1, min(_SHOWN, len(present))).round().astype(int)
    rng = np.random.default_rng(data.seed)
    rows = []
    for label in present[chosen].tolist():
        members = train[labels == label]
        some = np.sort(rng.choice(members, min(_IMAGES, len(members)), replace=False))
        title = f"{_shorten(_value(dataset, label), 60)} · {len(members):,} in train"
        rows.append(SheetRow(title, "", data.images(some).numpy()))
    return rows


def _pair_strips(data: FactorDataModule) -> list[SheetRow]:
    """Take the first pairs, or views, that the disentangler would be trained on."""
    batch: Batch = next(iter(data.train_dataloader()))
    images = data.images(batch.rows.numpy(), epoch=0)
    if images.ndim == 4:
        images = images[None]
    labels = batch.targets[..., 0].expand(images.shape[:2]).T.tolist()
    factor = _shorten(data.dataset.principal, 16)
    rows = []
    for strip, values in zip(images[:, :_SHOWN].transpose(0, 1).numpy(), labels, strict=False):
        names = [_value(data.dataset, value) for value in values]
        if batch.rows.ndim == 1:  # of one image
            rows.append(SheetRow(_shorten(names[0], 26), "", strip))
        elif len(set(values)) == 1:
            title = f"same {factor}"
            rows.append(SheetRow(title, _shorten(names[0], 30), strip, PALETTE[0]))
        else:
            title, detail = f"different {factor}", " · ".join(_shorten(name, 14) for name in names)
            rows.append(SheetRow(title, detail, strip, PALETTE[1]))
    return rows


def _value(dataset: FactorDataset, label: int) -> str:
    names: Sequence[str] | None = dataset.value_names.get(dataset.principal)
    return str(label) if names is None else str(names[label])


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
