"""Train every arm of the chain with every seed."""

from __future__ import annotations

from collections.abc import Sequence

from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.pipeline.stage import stage_named
from detaux_pl.settings.devices import n_devices
from detaux_pl.settings.keys import trainable_settings
from detaux_pl.settings.names import labels_stage, needs_labels, stage_folder
from detaux_pl.training import stage_job
from detaux_pl.training.stage_cli import StageParser, stage_parser


def parser() -> StageParser:
    """Return the parser of the stage."""
    return stage_parser("multitask")


def run(args: list[str]) -> int:
    """Run `detaux multitask`."""
    return stage_job.run("multitask", stage_named("multitask").subcommands, args)


def jobs(chain: Chain, before: Sequence[Job]) -> list[Job]:
    """Train the arms, seed by seed; those that learn no discovered labels wait for none."""
    made = []
    for seeds in zip(*chain.arms.values(), strict=True):
        for config in seeds:
            follows = needs_labels(config)
            made.append(
                Job(
                    stage_folder("multitask", config),
                    ("multitask", "fit"),
                    config,
                    trainable_settings(config, None if follows else chain.files),
                    (labels_stage(config),) if follows else (),
                    n_devices(config["trainer"]) > 1,
                )
            )
    return made
