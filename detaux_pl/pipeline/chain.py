"""The settings of a whole chain: what it takes, and what contradicts itself in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jsonargparse import ActionParser

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.few_labels import FewLabels
from detaux_pl.data.noise import SaltPepper
from detaux_pl.pipeline.arms import NetSettings, resolve_arms, resolve_nets
from detaux_pl.pipeline.discoveries import resolve_discoveries
from detaux_pl.pipeline.given import read_given, refuse_linked, refuse_overruled
from detaux_pl.pipeline.job import Chain
from detaux_pl.pipeline.stage import OF_CHAIN, STAGES
from detaux_pl.pipeline.stages.disentangle import FROM_RESTART_TO_RESTART, restarts
from detaux_pl.pipeline.workers import refuse_jobs
from detaux_pl.settings.choices import closest
from detaux_pl.settings.limits import refuse_seed
from detaux_pl.settings.names import discovery_folder
from detaux_pl.settings.parser import ShortParser, config_parser
from detaux_pl.training.stage_cli import Tracking, refuse_unusable, resolve


def chain_parser() -> ShortParser:
    """Return the parser of the whole chain."""
    parser = config_parser(ShortParser, prog="detaux fit")
    parser.add_argument("--run_dir", type=str, default="runs/detaux", help="Folder of the run.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of all stages.")
    parser.add_argument("--seeds", type=int, default=5, help="How often each arm is trained.")
    parser.add_argument(
        "--restarts", type=int, default=1,
        help="How often the disentangler is trained, for cluster.select to choose from.",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=None,
        help="Trainings at once; null for one per core, or one on an accelerator.",
    )  # fmt: skip
    parser.add_argument(
        "--redo", type=str, default=None,
        help="Stage to begin anew, with all that follow from it.",
    )  # fmt: skip
    parser.add_argument(
        "--until", type=str, default=None, help="Stage to stop after, such as cluster."
    )
    parser.add_subclass_arguments(
        FactorDataset, "dataset", required=True, help="Images and factors, for all stages."
    )
    parser.add_argument(
        "--noise", type=SaltPepper | None, default=None, help="Corruption of all images."
    )
    parser.add_argument(
        "--few_labels", type=FewLabels | None, default=None,
        help="Labels of each class that are known of the training images; null for all.",
    )  # fmt: skip
    for number, stage in enumerate(OF_CHAIN, start=1):
        about = f"Stage {number}: {stage.help}."
        parser.add_argument(f"--{stage.name}", action=ActionParser(stage.code.parser()), help=about)
    parser.add_class_arguments(NetSettings, "nets")
    parser.add_argument(
        "--baselines", type=list[str | dict[str, Any]], default=["SingleTask"],
        help="Other models, trained like the main one; what they do not say is as in it. One with "
        "`auxiliary` learns other labels than those discovered, see controls; `data` and `trainer` "
        "are settings of its own training.",
    )  # fmt: skip
    parser.add_argument(
        "--discoveries", type=dict[str, dict[str, Any]], default={},
        help="By name, other ways to labels for the main model: settings of "
        f"{', '.join(row.name for row in OF_CHAIN if row.further)}.",
    )  # fmt: skip
    parser.add_argument(
        "--controls", type=list[str | list[str]], default=["shuffled"],
        help="Other auxiliary labels for the main model: shuffled, a factor, a list of factors.",
    )  # fmt: skip
    parser.add_class_arguments(Tracking, "tracking")
    for stage in OF_CHAIN:
        for source, target in stage.takes:
            parser.link_arguments(source, f"{stage.name}.{target}")
    return parser


def parse(args: Sequence[str]) -> Chain:
    """Parse the chain's arguments and resolve the configuration of every arm and seed.

    Raises:
        UserError: If a setting is unknown or does not fit.
    """
    parser = chain_parser()
    words, given = read_given(list(args))
    refuse_linked(words)
    parsed: Any = parser.parse_args(words)
    config = resolve(parser, parsed)
    refuse_overruled(given, config)
    _refuse_settings(config)
    discoveries = resolve_discoveries(config)
    _refuse_restarts(config)
    if config["restarts"] > 1:
        config["cluster"]["codes"] = [
            f"{discovery_folder('disentangle', each['discovery'])}/codes"
            for each in restarts(config)
        ]
    chain = Chain(config, {}, discoveries, "")
    _give_nets(chain)
    refined = {name for name, own in chain.every.items() if own["refine"]["rounds"]}
    arms = dict(resolve_arms(config, refined))
    for configs in arms.values():
        refuse_unusable("multitask", configs[0])
    # What a command did once is no setting of the run.
    parsed.redo = parsed.until = None
    source = parser.dump(parsed, skip_unset=False)
    return replace(chain, arms=arms, source=source)


def _refuse_settings(config: dict[str, Any]) -> None:
    """Refuse what a chain cannot do, or what is set of a stage that the chain says of all."""
    until, names = config["until"], [stage.name for stage in STAGES]
    if until is not None and until not in names:
        raise UserError(f"--until is {until!r}: {closest(until, names)}")
    if config["seeds"] < 1:
        raise UserError(f"seeds is {config['seeds']}: each arm is trained at least once.")
    if config["multitask"]["data"]["init_args"].get("labels") is not None:
        raise UserError(
            "multitask.data.init_args.labels is set, but the chain trains on the labels that it "
            "discovers: leave it out, or run `detaux multitask fit` by itself."
        )
    refuse_jobs(config["jobs"])
    further = max(config["seeds"] - 1, FROM_RESTART_TO_RESTART * (config["restarts"] - 1))
    refuse_seed("seed", config["seed"], further)
    for stage in ("disentangle", "multitask"):
        refuse_unusable(stage, config[stage])
    for row in OF_CHAIN:
        discovery = config[row.name].get("discovery")
        if discovery is not None:
            raise UserError(
                f"{row.name}.discovery is {discovery!r}, but the stages of a chain "
                "are those of its main discovery: leave it out, and list others in discoveries."
            )
    if config["cluster"]["codes"] != "disentangle/codes":
        raise UserError(
            f"cluster.codes is {config['cluster']['codes']!r}, but a chain clusters the codes of "
            "its own disentangler: leave it out."
        )
    for row in OF_CHAIN:
        for name in ("nets", "jobs") if row.tries_nets else ():
            if config[row.name][name] is not None:
                raise UserError(f"{row.name}.{name} is that of the chain: set --{name}.")


def _give_nets(chain: Chain) -> None:
    """Fill in, of the stages that train nets, what these are built from."""
    tried = [
        own[row.name]
        for row in OF_CHAIN
        for own in chain.every.values()
        if row.tries_nets and row.code.net_tasks(own)
    ]
    if tried:
        selections = [each.get("select") for each in tried]
        asked = [bool(own and own["init_args"]["uses"]) for own in selections]
        nets = {uses: resolve_nets(chain.config, uses) for uses in set(asked)}
        for each, uses in zip(tried, asked, strict=True):
            each |= {"nets": nets[uses], "jobs": chain.config["jobs"]}


def _refuse_restarts(config: dict[str, Any]) -> None:
    restarts = config["restarts"]
    if restarts < 1:
        raise UserError(f"restarts is {restarts}: the disentangler is trained at least once.")
    if restarts > 1 and config["cluster"]["select"] is None:
        raise UserError(
            f"restarts is {restarts}, but nothing chooses among them: give cluster.select, such as "
            "--cluster.select.tries 6, or leave restarts out."
        )
    for name in config["discoveries"]:
        if re.fullmatch(r"restart\d+", name):
            raise UserError(f"a discovery is named {name!r}, as restarts are: take another name.")
