"""Learn the subspaces, then encode every image; further discoveries and restarts likewise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from detaux_pl.pipeline.job import Chain, Job
from detaux_pl.pipeline.stage import stage_named
from detaux_pl.settings.devices import n_devices
from detaux_pl.settings.keys import codes_settings, trainable_settings
from detaux_pl.settings.names import stage_folder
from detaux_pl.training import stage_job
from detaux_pl.training.stage_cli import StageParser, stage_parser

FROM_RESTART_TO_RESTART = 1000
"""From the seed of one restart to that of the next: seeds of runs are closer together."""


def parser() -> StageParser:
    """Return the parser of the stage."""
    return stage_parser("disentangle")


def run(args: list[str]) -> int:
    """Run `detaux disentangle`."""
    return stage_job.run("disentangle", stage_named("disentangle").subcommands, args)


def restarts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings of the main disentangler of a chain, with a seed of its own for every restart."""
    main = config["disentangle"]
    for k in range(config["restarts"]):
        seed = main["seed_everything"] + FROM_RESTART_TO_RESTART * k
        data = {**main["data"], "init_args": {**main["data"]["init_args"], "seed": seed}}
        name = f"restart{k}" if k else None
        yield {**main, "seed_everything": seed, "data": data, "discovery": name}


def jobs(chain: Chain, before: Sequence[Job]) -> list[Job]:
    """Train each disentangler, and write its codes."""
    made = []
    for config in (*restarts(chain.config), *chain.configs("disentangle")[1:]):
        name = stage_folder("disentangle", config)
        alone = n_devices(config["trainer"]) > 1
        settings = trainable_settings(config, chain.files), codes_settings(config)
        made += [
            Job(name, ("disentangle", "fit"), config, settings[0], (), alone),
            Job(f"{name}/codes", ("disentangle", "predict"), config, settings[1], (name,), alone),
        ]
    return made
