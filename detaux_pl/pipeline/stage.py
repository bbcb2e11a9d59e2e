"""The stages of the chain: a row each, in the order of running. Imports none of their code."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

_TRAINS = (
    ("dataset", "data.init_args.dataset"),
    ("noise", "data.init_args.noise"),
    ("few_labels", "data.init_args.few_labels"),
    ("seed", "seed_everything"),
    ("seed", "data.init_args.seed"),
    ("run_dir", "run_dir"),
    *((f"tracking.{name}", f"tracking.{name}") for name in ("wandb", "project", "entity")),
)


@dataclass(frozen=True)
class Stage:
    """A row of the chain.

    Its file `pipeline/stages/<name>.py` gives

    - `jobs(chain, before)`: what there is to do, after the jobs of the stages before;
    - `run(args)`: the command `detaux <name>`;
    - `parser()`: its settings, where the config of a chain has some of it (`takes`);
    - `check(own, folds)` and `net_tasks(own)`, where it trains nets (`tries_nets`): refuse settings
      of a discovery, and say how many tasks its nets learn.

    Args:
        name: Its name: of the command, of the key in a chain's config and of the folder.
        help: What it does, for `detaux --help`.
        takes: Settings of the chain that are also its own: name there, name here.
        subcommands: Words that follow its command.
        further: Whether each further discovery has one too.
        tries_nets: Whether it trains the nets of the chain's `nets`.
        optional: Whether it can be left out.
    """

    name: str
    help: str
    takes: tuple[tuple[str, str], ...] = ()
    subcommands: tuple[str, ...] = ()
    further: bool = False
    tries_nets: bool = False
    optional: bool = False

    @property
    def code(self) -> ModuleType:
        """Its file."""
        return import_module(f"detaux_pl.pipeline.stages.{self.name}")


STAGES = (
    Stage(
        "disentangle",
        "learn the subspaces; predict writes the codes",
        takes=_TRAINS,
        subcommands=("fit", "validate", "test", "predict"),
        further=True,
    ),
    Stage(
        "evaluate",
        "codes -> linear probes and disentanglement metrics",
        takes=(("run_dir", "run_dir"),),
    ),
    Stage(
        "cluster",
        "codes -> auxiliary labels",
        takes=(("run_dir", "run_dir"), ("seed", "seed")),
        further=True,
        tries_nets=True,
    ),
    Stage(
        "refine",
        "auxiliary labels -> those that nets see in the images",
        takes=(("run_dir", "run_dir"), ("seed", "seed")),
        further=True,
        tries_nets=True,
        optional=True,
    ),
    Stage(
        "multitask",
        "train one arm with one seed",
        takes=_TRAINS,
        subcommands=("fit", "validate", "test"),
    ),
    Stage("report", "tables and pictures of a run folder"),
)

OF_CHAIN = tuple(stage for stage in STAGES if stage.takes)
"""Those that the config of a chain describes."""


def stage_named(name: str) -> Stage:
    """Return the row of a stage."""
    return next(stage for stage in STAGES if stage.name == name)
