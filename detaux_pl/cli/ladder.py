"""`detaux ladder`: what people would take on one's own data, side by side."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.exit_codes import NOTHING_FOUND, OK, stopped
from detaux_pl.artifacts.files import write_text
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.artifacts.terminal import terminal
from detaux_pl.cli.fit import refuse_launched, run_chain
from detaux_pl.cli.table import PlainParser, form_of, put_out
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.evaluation.ladder import Budget, worths
from detaux_pl.pipeline.checks import build_all
from detaux_pl.pipeline.costs import Costs
from detaux_pl.pipeline.forecast import foresee_all
from detaux_pl.pipeline.fork_server import fork_server
from detaux_pl.pipeline.job import Chain
from detaux_pl.pipeline.ladder import PARTNERS, RUNGS, Ladder, plan_ladder
from detaux_pl.pipeline.ladder_results import best_networks, read_budget
from detaux_pl.pipeline.process import Runner, run_processes
from detaux_pl.report.ladder_table import (
    sentences,
    to_csv,
    to_json,
    to_markdown,
    to_rich,
)
from detaux_pl.settings.build import build
from detaux_pl.settings.choices import closest
from detaux_pl.settings.names import stage_folder

_FORMS = ("text", "markdown", "csv")
_SUFFIXES = {".txt": "text", ".md": "markdown", ".csv": "csv"}
_REFERENCES = ("probe", "network")
"""What the others are tested against, if nothing is said: the first that there is."""


def run(args: list[str], runner: Runner = run_processes) -> int:
    """Run `detaux ladder`: every chain that is not done yet, then the tables and the page.

    Args:
        args: Arguments of the command.
        runner: Runs the commands of the stages; by default in processes of their own.

    Returns:
        The exit code: that of the chain that failed, or 0.

    Raises:
        UserError: If the settings do not fit, or a run folder was made with others.
    """
    refuse_launched("ladder")
    given, words = _parser().parse_known_args(args)
    form = form_of(given.format, given.output, _FORMS, _SUFFIXES)
    rungs = None if given.rungs is None else given.rungs.split(",")
    ladder = plan_ladder(
        words, rungs, _labels(given.labels), given.seeds, given.seed, given.ensemble,
        given.run_dir, given.with_task,
    )  # fmt: skip
    against = _reference(ladder.rungs, given.against)
    console = terminal(stderr=True)
    asked: dict[int | None, list[str]] = {}
    best: dict[int | None, list[str]] = {}
    with fork_server():
        _refuse_few(ladder)
        chains = {
            (labels, seed): ladder.chain(labels, seed, ladder.rungs)
            for labels in ladder.labels
            for seed in ladder.each
        }
        costs = Costs(len(chains))
        named = {str(each.run_dir): each for each in chains.values()}
        forecast, line = foresee_all(f"{len(chains)} chains", named, 1, costs=costs)
        if line:
            console.print(line, soft_wrap=True)
        tell, done = forecast.telling(f"{len(chains)} chains"), set[str]()
        for labels in ladder.labels:
            asked[labels] = [*ladder.rungs]
            # The best ones are known when all seeds are.
            for _ in range(1 + bool(ladder.best)):
                for seed in ladder.each:
                    # To resolve a chain takes seconds: those of the first time are there.
                    run = chains[labels, seed]
                    if asked[labels] != [*ladder.rungs]:
                        run = ladder.chain(labels, seed, asked[labels])
                    code = _climb(ladder, run, labels, seed, asked[labels], runner, console, costs)
                    if code != OK:
                        return stopped(code) if code > 128 else code
                    done.add(str(chains[labels, seed].run_dir))
                    if left := tell(done):
                        console.print(f"ladder{left}")
                best[labels] = best_networks(ladder, labels)
                further = [PARTNERS[name] for name in best[labels]]
                asked[labels] = [*dict.fromkeys([*ladder.rungs, *further])]
    budgets = [read_budget(ladder, labels, asked[labels], against) for labels in ladder.labels]
    budgets.sort(key=lambda budget: budget.known)
    found = worths(budgets, {name: each.alone for name, each in RUNGS.items() if each.alone})
    said = [*sentences(budgets, found), *_with_task(best, budgets)]
    said += _lacking(ladder, asked, budgets)
    about = {name: rung.about for name, rung in RUNGS.items() if name in chain(*asked.values())}
    # matplotlib takes longer to import than all else that is left.
    from detaux_pl.report.ladder_page import render_ladder

    command = shlex.join(["detaux", "ladder", *args])
    for name, content in (
        ("ladder.json", to_json(budgets, found, said, about)),
        ("ladder.md", to_markdown(budgets, said)),
        ("ladder.csv", to_csv(budgets, said)),
        ("ladder.html", render_ladder(budgets, said, about, str(ladder.folder), command)),
    ):
        write_text(ladder.folder / name, content)
    writers: dict[str, Any] = {"text": to_rich, "markdown": to_markdown, "csv": to_csv}
    put_out(writers[form](budgets, said), given.output)
    print(f"page: {ladder.folder / 'ladder.html'}", file=sys.stderr)
    return OK


def _parser() -> PlainParser:
    parser = PlainParser(
        prog="detaux ladder",
        allow_abbrev=False,
        description="What people would take on these data, from the most frequent class to "
        "networks that learn the discovered task: accuracy, tests, cost, and which to take. All "
        "other arguments are those of `detaux fit`, whose config says data, discovery and network.",
    )
    parser.add_argument(
        "--rungs", metavar="A,B,...",
        help=f"some of {', '.join(RUNGS)}; by default those of the networks that the config names",
    )  # fmt: skip
    parser.add_argument(
        "--labels", default="all", metavar="N,N,...",
        help="labels of each class that are known, such as 5,20,all (all); the other training "
        "images serve without theirs",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument(
        "--ensemble", type=int, default=1,
        help="networks of each trained rung that answer together, as a rung of its own (1: none)",
    )  # fmt: skip
    parser.add_argument(
        "--with_task", type=int, metavar="N",
        help="so many of the best of the rungs network, network_light and the like, by validation "
        "accuracy, learn the discovered task too (2 where no rungs are named, else 0)",
    )  # fmt: skip
    parser.add_argument(
        "--run_dir", help="folder of the ladder; by default that of the config with _ladder"
    )
    parser.add_argument(
        "--against", metavar="RUNG", help=f"what the others are tested against ({_REFERENCES[0]})"
    )
    parser.add_argument(
        "--format", choices=_FORMS, help="by default what the name of the output says, else text"
    )
    parser.add_argument("--output", metavar="FILE", help="file to write instead of the terminal")
    return parser


def _labels(text: str) -> list[int | None]:
    """Read the numbers of labels.

    Raises:
        UserError: If one is none.
    """
    found: list[int | None] = []
    for word in text.split(","):
        if word.strip() != "all" and not (word.strip().isdecimal() and int(word) >= 2):
            raise UserError(
                f"--labels is {text!r}: give numbers of labels of each class, at least 2, or all, "
                "such as 5,20,all."
            )
        found.append(None if word.strip() == "all" else int(word))
    if len({*found}) < len(found):
        raise UserError(f"--labels is {text!r}: give each number once.")
    return found


def _reference(rungs: Sequence[str], against: str | None) -> str:
    if against is None:
        return next((name for name in _REFERENCES if name in rungs), rungs[0])
    if against not in rungs:
        raise UserError(f"--against is {against!r}: {closest(against, rungs)}")
    return against


def _refuse_few(ladder: Ladder) -> None:
    """Refuse what does not fit before anything runs: the settings, and more labels than there are.

    Raises:
        UserError: If it does not.
    """
    numbers = [labels for labels in ladder.labels if labels is not None]
    if numbers:
        config = ladder.chain(max(numbers), ladder.seed, ladder.rungs[:1]).config
        data = build(FactorDataModule, config["multitask"]["data"])
        data.describe()
        if not hasattr(data.dataset, "splits"):  # it knows them when it is read
            data.prepare_data()
            data.setup("fit")
    fewest = min(numbers, default=None)
    further = [PARTNERS[name] for name in ladder.rungs if ladder.best and name in PARTNERS]
    build_all(ladder.chain(fewest, ladder.seed, [*{*ladder.rungs, *further}]))


def _climb(
    ladder: Ladder,
    run: Chain,
    labels: int | None,
    seed: int,
    rungs: Sequence[str],
    runner: Runner,
    console: Any,
    costs: Costs,
) -> int:
    """Run one chain; where it finds no task, without the rungs that learn one."""
    code = run_chain(run, runner, console, costs)
    others = [name for name in rungs if not RUNGS[name].kind.uses_auxiliary]
    if code == NOTHING_FOUND and others:
        run = ladder.chain(labels, seed, others)
        code = run_chain(run, runner, console, costs)
    every = [config for configs in run.arms.values() for config in configs]
    folders = [StageFolder(run.run_dir, stage_folder("multitask", config)) for config in every]
    diverged = any(folder.diverged for folder in folders)
    if diverged and all(folder.complete or folder.diverged for folder in folders):
        return OK
    return OK if code == NOTHING_FOUND else code


def _with_task(
    best: Mapping[int | None, Sequence[str]], budgets: Sequence[Budget]
) -> Iterator[str]:
    """Say which rungs were chosen to learn the discovered task too."""
    for budget in budgets:
        if names := best[budget.labels]:
            verb = "is the best network" if len(names) == 1 else "are the best networks"
            yield (
                f"At {budget.known:.3g} labels a class, {' and '.join(names)} {verb} by validation "
                "accuracy: with the discovered task, too."
            )


def _lacking(
    ladder: Ladder, asked: Mapping[int | None, Sequence[str]], budgets: Sequence[Budget]
) -> Iterator[str]:
    """Name the rungs that were not measured with every seed."""
    for budget in budgets:
        seeds = {row.name: row.summary.n for row in budget.comparison.rows}
        for name in asked[budget.labels]:
            if (n := seeds.get(name, 0)) < ladder.seeds:
                yield (
                    f"At {budget.known:.3g} labels a class, {name} has {n} of {ladder.seeds} "
                    "measurements: no task worth training on was found, or its training diverged."
                )
