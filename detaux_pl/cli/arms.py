"""The arms of a chain: the main model, its baselines and its controls, each with every seed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pydoc import locate
from typing import Any

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cli.parser import closest, concrete_subclasses
from detaux_pl.cli.trainable import arm_name, resolve, stage_parser
from detaux_pl.multitask.base import MultitaskModel


def resolve_arms(config: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give the configs of each arm, one per seed; the main arm comes first."""
    main = config["multitask"]
    names = [main["arm"] or arm_name(main["model"]["class_path"])]
    yield names[0], _per_seed(main, names[0], config["seeds"])
    for baseline in config["baselines"]:
        arm = _resolve_arm({**main, "model": _inherit(baseline, main["model"]), "arm": None})
        names.append(arm_name(arm["model"]["class_path"]))
        yield names[-1], _per_seed(arm, names[-1], config["seeds"])
    for control in config["controls"]:
        if control == "discovered":
            raise UserError("a control is 'discovered', which the main arm has: leave it out.")
        data = {**main["data"], "init_args": {**main["data"]["init_args"], "auxiliary": control}}
        names.append(control)
        yield control, _per_seed({**main, "data": data}, control, config["seeds"])
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"two arms are named {twice.pop()!r}: give each baseline and control once.")


def _per_seed(arm: dict[str, Any], name: str, seeds: int) -> list[dict[str, Any]]:
    configs = []
    for k in range(seeds):
        seed = arm["seed_everything"] + k
        data = {**arm["data"], "init_args": {**arm["data"]["init_args"], "seed": seed}}
        configs.append({**arm, "seed_everything": seed, "data": data, "arm": name})
    return configs


def _inherit(baseline: str | dict[str, Any], main: dict[str, Any]) -> dict[str, Any]:
    """Give a baseline the main model's settings that it has too and does not say itself."""
    given: Any = {"class_path": baseline} if isinstance(baseline, str) else baseline
    unknown = given.keys() - {"class_path", "init_args"}
    if unknown or not isinstance(given.get("init_args", {}), dict):
        raise UserError(
            f"a baseline is {baseline!r}: give a class, or class_path and init_args with settings."
        )
    classes = {cls.__name__: cls for cls in concrete_subclasses(MultitaskModel)}
    name = str(given.get("class_path", ""))
    cls: Any = classes.get(name) or (locate(name) if "." in name else None)
    if cls is None:
        raise UserError(f"the baseline {name!r} does not exist: {closest(name, sorted(classes))}")
    known = inspect.signature(cls).parameters
    shared = {key: value for key, value in main["init_args"].items() if key in known}
    return {"class_path": name, "init_args": {**shared, **given.get("init_args", {})}}


def _resolve_arm(arm: dict[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of an arm and check it, as if it had been given by itself."""
    parser = stage_parser("multitask")
    return resolve(parser, parser.parse_object(arm))
