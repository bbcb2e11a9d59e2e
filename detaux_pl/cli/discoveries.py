"""The further discoveries of a chain: other ways to auxiliary labels, each an arm of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cli.cluster import cluster_parser
from detaux_pl.cli.refine import refine_parser
from detaux_pl.cli.stage import discovery_folder
from detaux_pl.cli.trainable import refuse_unusable, resolve, stage_parser
from detaux_pl.data.modules import PairDataModule

_STAGES = ("disentangle", "cluster", "refine")
_OF_CHAIN = ("run_dir", "redo", "discovery", "codes", "jobs", "nets")
_SHARED = ("run_dir", "seed_everything", "tracking")


class DiscoveryStages(NamedTuple):
    """The resolved configurations of the stages of one further discovery.

    Args:
        disentangle: Of its own disentangler; None where it clusters the codes of the main one.
        cluster: Of its clustering.
        refine: Of the refinement of its labels.
    """

    disentangle: dict[str, Any] | None
    cluster: dict[str, Any]
    refine: dict[str, Any]


def resolve_discoveries(config: dict[str, Any]) -> dict[str, DiscoveryStages]:
    """Resolve the further discoveries of a chain, by name.

    A disentangler of its own starts from the defaults, the rest from the main one's. `codes`
    names another discovery whose codes are clustered, in place of a disentangler of its own.

    Args:
        config: The resolved configuration of the chain.

    Raises:
        UserError: If one says what it cannot.
    """
    everything = config["discoveries"]
    trained = [name for name, given in everything.items() if "disentangle" in (given or {})]
    found = {}
    for name, given in everything.items():
        given = given or {}
        parts = [given.get(stage, {}) for stage in _STAGES]
        if (
            not given
            or given.keys() - {*_STAGES, "codes"}
            or not all(isinstance(part, dict) for part in parts)
        ):
            raise UserError(
                f"discoveries.{name} is {given!r}: give `disentangle`, `cluster` or `refine`, with "
                "what differs from the main ones (in a config file also as the path of a file); or "
                "`codes`, another discovery whose codes it clusters."
            )
        _refuse_shared(name, *parts)
        own, source = given.get("disentangle"), given.get("codes")
        if source is not None and (own is not None or source not in trained):
            raise UserError(
                f"discoveries.{name}.codes is {source!r}: name another discovery that has a "
                f"disentangler ({', '.join(trained) or 'there is none'}), and give none here."
            )
        disentangle = None if own is None else _disentangle(name, own, config["disentangle"])
        parser = cluster_parser()
        cluster = {**config["cluster"], **(given.get("cluster") or {}), "discovery": name}
        source = name if own is not None else source
        cluster["codes"] = f"{discovery_folder('disentangle', source)}/codes"
        refiner = refine_parser()
        refine = {**config["refine"], **(given.get("refine") or {}), "discovery": name}
        found[name] = DiscoveryStages(
            disentangle,
            resolve(parser, parser.parse_object(cluster)),
            resolve(refiner, refiner.parse_object(refine)),
        )
    return found


def _refuse_shared(
    name: str, disentangle: dict[str, Any], cluster: dict[str, Any], refine: dict[str, Any]
) -> None:
    """Refuse in a discovery what all stages of a chain have in common."""
    data = disentangle.get("data", {})
    if not isinstance(data, dict) or not isinstance(data.get("init_args", {}), dict):
        raise UserError(
            f"discoveries.{name}.disentangle.data is {data!r}: give class_path and init_args."
        )
    found = [
        *(f"disentangle.{key}" for key in disentangle.keys() - {"model", "data", "trainer"}),
        *(
            f"disentangle.data.init_args.{key}"
            for key in ("dataset", "noise", "seed")
            if key in data.get("init_args", {})
        ),
        *(f"cluster.{k}" for k in _OF_CHAIN if k in cluster),
        *(f"refine.{k}" for k in sorted(refine.keys() - {"rounds"})),
    ]
    if found:
        raise UserError(
            f"discoveries.{name}.{sorted(found)[0]} is set, which a discovery shares with the "
            "chain or gets from it: leave it out."
        )


def _disentangle(name: str, own: dict[str, Any], main: dict[str, Any]) -> dict[str, Any]:
    data = own.get("data") or {}
    shared = {key: main["data"]["init_args"][key] for key in ("dataset", "noise", "seed")}
    parser = stage_parser("disentangle")
    stage = {
        **own,
        **{key: main[key] for key in _SHARED},
        "discovery": name,
        "data": {
            "class_path": data.get("class_path", PairDataModule.__name__),
            "init_args": {**data.get("init_args", {}), **shared},
        },
    }
    resolved = resolve(parser, parser.parse_object(stage))
    refuse_unusable("disentangle", resolved)
    return resolved
