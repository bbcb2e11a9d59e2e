"""The further discoveries of a chain: other ways to auxiliary labels, each an arm of its own."""

from __future__ import annotations

from typing import Any

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.modules import PairDataModule
from detaux_pl.pipeline.stage import OF_CHAIN
from detaux_pl.settings.names import discovery_folder
from detaux_pl.settings.problems import given_at
from detaux_pl.training.stage_cli import refuse_unusable, resolve, resolving_parser

_STAGES = {stage.name: stage for stage in OF_CHAIN if stage.further}
_FROM_CHAIN = ("run_dir", "redo", "discovery", "codes", "jobs", "nets")
"""Settings of the other stages that the chain gives."""
_OF_DATA = ("dataset", "noise", "few_labels", "seed")
"""Settings of data that a discovery shares with the chain."""
_SHARED = ("run_dir", "seed_everything", "tracking")
"""Settings of a training that it has from the main one."""


def resolve_discoveries(config: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Resolve the further discoveries of a chain, by name.

    A disentangler of its own starts from the defaults, the rest from the main one's. `codes`
    names another discovery whose codes are clustered, in place of a disentangler of its own.

    Args:
        config: The resolved configuration of the chain.

    Returns:
        Of each the configuration of its stages, without `disentangle` where it clusters the codes
        of another.

    Raises:
        UserError: If one says what it cannot.
    """
    everything = config["discoveries"]
    trained = [name for name, given in everything.items() if "disentangle" in (given or {})]
    found = {}
    for name, given in everything.items():
        given = given or {}
        parts = {stage: given.get(stage, {}) for stage in _STAGES}
        if (
            not given
            or given.keys() - {*_STAGES, "codes"}
            or not all(isinstance(part, dict) for part in parts.values())
        ):
            *some, last = (f"`{stage}`" for stage in _STAGES)
            raise UserError(
                f"discoveries.{name} is {given!r}: give {', '.join(some)} or {last}, with "
                "what differs from the main ones (in a config file also as the path of a file); or "
                "`codes`, another discovery whose codes it clusters."
            )
        _refuse_shared(name, parts)
        own, source = given.get("disentangle"), given.get("codes")
        if source is not None and (own is not None or source not in trained):
            raise UserError(
                f"discoveries.{name}.codes is {source!r}: name another discovery that has a "
                f"disentangler ({', '.join(trained) or 'there is none'}), and give none here."
            )
        disentangle = None if own is None else _disentangle(name, own, config["disentangle"])
        found[name] = {} if disentangle is None else {"disentangle": disentangle}
        for stage in _STAGES:
            if stage != "disentangle":
                said = {**config[stage], **parts[stage], "discovery": name}
                if stage == "cluster":
                    clustered = name if own is not None else source
                    said["codes"] = f"{discovery_folder('disentangle', clustered)}/codes"
                parser = _STAGES[stage].code.parser()
                with given_at(f"discoveries.{name}.{stage}."):
                    found[name][stage] = resolve(parser, parser.parse_object(said))
    return found


def _refuse_shared(name: str, parts: dict[str, dict[str, Any]]) -> None:
    """Refuse in a discovery what all stages of a chain have in common."""
    disentangle = parts["disentangle"]
    data = disentangle.get("data", {})
    if not isinstance(data, dict) or not isinstance(data.get("init_args", {}), dict):
        raise UserError(
            f"discoveries.{name}.disentangle.data is {data!r}: give class_path and init_args."
        )
    found = [
        *(f"disentangle.{key}" for key in disentangle.keys() - {"model", "data", "trainer"}),
        *(
            f"disentangle.data.init_args.{key}"
            for key in _OF_DATA
            if key in data.get("init_args", {})
        ),
        *(
            f"{stage}.{key}"
            for stage, part in parts.items()
            for key in (*_FROM_CHAIN, *(() if stage == "cluster" else ("seed",)))
            if stage != "disentangle" and key in part
        ),
    ]
    if found:
        raise UserError(
            f"discoveries.{name}.{sorted(found)[0]} is set, which a discovery shares with the "
            "chain or gets from it: leave it out."
        )


def _disentangle(name: str, own: dict[str, Any], main: dict[str, Any]) -> dict[str, Any]:
    data = own.get("data") or {}
    shared = {key: main["data"]["init_args"][key] for key in _OF_DATA}
    parser = resolving_parser("disentangle")
    stage = {
        **own,
        **{key: main[key] for key in _SHARED},
        "discovery": name,
        "data": {
            "class_path": data.get("class_path", PairDataModule.__name__),
            "init_args": {**data.get("init_args", {}), **shared},
        },
    }
    with given_at(f"discoveries.{name}.disentangle."):
        resolved = resolve(parser, parser.parse_object(stage))
    refuse_unusable("disentangle", resolved)
    return resolved
