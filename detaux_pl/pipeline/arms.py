"""The arms of a chain: the main model, its baselines and its controls, each with every seed."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pydoc import locate
from typing import Any

from detaux_pl.artifacts.errors import UserError
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.settings.build import constructor_defaults
from detaux_pl.settings.choices import closest, concrete_subclasses
from detaux_pl.settings.names import arm_folder, arm_name
from detaux_pl.settings.problems import given_at
from detaux_pl.training.stage_cli import refuse_unusable, resolve, resolving_parser
from detaux_pl.training.timing import STEPPING

_OF_NETWORK = {"model", "weights", "size", "pretrained"}
"""What says which network a frozen one is."""
_SHARED_DATA = {"dataset", "noise", "few_labels", "labels", "auxiliary", "seed", "image_size"}
"""What of the data no baseline has for itself."""


@dataclass(frozen=True)
class NetSettings:
    """The small nets that try tasks and refine labels, each told of all training images but some.

    Args:
        model: A multi-task model, as in baselines; None for `HardParameterSharing`. What it does
            not say is as in the main arm.
        folds: Into how many parts the training images are dealt.
        epochs: Epochs of a net, which nothing ends earlier; None for those of the main arm. What a
            task does for the principal one may show late: fewer can mislead.
    """

    model: str | dict[str, Any] | None = None
    folds: int = 4
    epochs: int | None = None


def resolve_nets(config: dict[str, Any], uses: bool = False) -> dict[str, Any]:
    """Resolve what the nets that try tasks and refine labels are built from.

    Args:
        config: The resolved configuration of the chain.
        uses: Whether groups are balanced, too.

    Returns:
        `model`, `single`, `data`, `trainer` and `folds`, and `balance` where groups are balanced.

    Raises:
        UserError: If a setting is outside its range, or the model learns no auxiliary labels.
    """
    settings, main = config["nets"], config["multitask"]
    if settings["folds"] < 2 or (settings["epochs"] is not None and settings["epochs"] < 1):
        raise UserError(
            f"nets.folds is {settings['folds']} and nets.epochs {settings['epochs']}: give at "
            "least 2 and 1."
        )
    models = []
    balanced = ["BalancedSampling"] * uses
    for given in (settings["model"] or "HardParameterSharing", "SingleTask", *balanced):
        model, _ = _inherit(given, main["model"], "nets.model")
        arm = _resolve_arm({**main, "model": model, "arm": None}, "nets.model")
        models.append(arm["model"])
    net: Any = locate(models[0]["class_path"])
    if not net.uses_auxiliary:
        raise UserError(
            f"nets.model is {settings['model']!r}, which learns no auxiliary labels: take another, "
            "such as HardParameterSharing."
        )
    if net.refitted:
        raise UserError(
            f"nets.model is {settings['model']!r}, which is fitted anew to validation images, and "
            "nets have none: take another, such as BalancedSampling."
        )
    for model in models:
        refuse_unusable("multitask", {**main, "model": model})
    trainer = {name: main["trainer"][name] for name in STEPPING}
    if settings["epochs"] is not None:
        trainer |= {"max_epochs": settings["epochs"], "max_steps": -1}
    if trainer["max_epochs"] in (None, -1) and trainer["max_steps"] == -1:
        raise UserError(
            "the nets that try tasks and refine labels train as long as the main arm, and "
            f"multitask.trainer.max_epochs is {trainer['max_epochs']}: give nets.epochs."
        )
    data = main["data"]
    # Each net has labels and seeds of its own.
    own = {"labels": None, "auxiliary": "discovered", "seed": 0}
    return {
        "model": models[0],
        "single": models[1],
        **({"balance": models[2]} if uses else {}),
        "data": {
            "class_path": data["class_path"],
            "init_args": {**data["init_args"], **own},
        },
        "trainer": trainer,
        "folds": settings["folds"],
    }


def resolve_arms(
    config: dict[str, Any], refined: Collection[str | None] = ()
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give the configs of each arm, one per seed; the main arm comes first.

    Args:
        config: The resolved configuration of the chain.
        refined: Names of the discoveries whose labels are refined, None for the main one.
    """
    main = {**config["multitask"], "refined": None in refined}
    arms = [(main["arm"] or arm_name(main["model"]["class_path"]), main)]
    model: Any = locate(main["model"]["class_path"])
    if not model.uses_auxiliary and (config["discoveries"] or config["controls"]):
        raise UserError(
            f"{model.__name__} learns no auxiliary labels, so that discoveries and controls would "
            "repeat the main arm: give --discoveries '{}' --controls '[]', or another main model."
        )
    for n, baseline in enumerate(config["baselines"]):
        other, auxiliary = _split_auxiliary(baseline)
        other, training = _split_training(other)
        model, name = _inherit(other, main["model"], "a baseline")
        data = {**main["data"], "init_args": {**main["data"]["init_args"], **training["data"]}}
        trainer = {**main["trainer"], **training["trainer"]}
        own = {"model": model, "data": data, "trainer": trainer, "arm": None}
        arm = _resolve_arm({**main, **own}, f"baselines[{n}]")
        own_name = arm_name(arm["model"]["class_path"])
        if auxiliary is not None:
            arm = _told(arm, auxiliary)
            own_name += f"-{control_name(auxiliary)}"
        arms.append((name or own_name, arm))
    for discovery in config["discoveries"]:
        own = {"discovery": discovery, "refined": discovery in refined}
        arms.append((discovery, {**main, **own}))
    for control in config["controls"]:
        if control == "discovered":
            raise UserError("a control is 'discovered', which the main arm has: leave it out.")
        arms.append((control_name(control), {**_told(main, control), "keep_weights": False}))
    folders = [arm_folder(name) for name, _ in arms]
    twice = {name for name, _ in arms if folders.count(arm_folder(name)) > 1}
    if twice:
        raise UserError(
            f"two arms are named {twice.pop()!r}: give each control once, and a baseline of a "
            "class that another arm has a `name` of its own."
        )
    for name, arm in arms:
        shared = {**arm, "model": _with_network(arm["model"], config["disentangle"]["model"])}
        yield name, _per_seed(shared, name, config["seeds"])


def control_name(control: str | list[str]) -> str:
    """Return the name of the arm of a control: that of a factor, or of several."""
    return control if isinstance(control, str) else "-".join(control)


def _with_network(model: dict[str, Any], disentangler: dict[str, Any]) -> dict[str, Any]:
    """Give a model on frozen features that names no network that of the disentangler, if any."""
    cls: Any = locate(model["class_path"])
    other: Any = locate(disentangler["class_path"])
    own, given = model.get("init_args", {}), disentangler.get("init_args", {})
    if cls.trained or not other.gives_features or own.get("model", "") is not None:
        return model
    defaults = constructor_defaults(cls)
    network = (_OF_NETWORK | {"cache_dir"}) & own.keys() & given.keys()
    shared = {name: given[name] for name in network if own[name] == defaults[name]}
    return {**model, "init_args": {**own, **shared}}


def _split_auxiliary(baseline: str | dict[str, Any]) -> tuple[Any, str | list[str] | None]:
    """Split off the labels that a baseline learns in place of those discovered, None for these.

    Raises:
        UserError: If they are of another kind.
    """
    if isinstance(baseline, str) or baseline.get("auxiliary") is None:
        return baseline, None
    auxiliary: Any = baseline["auxiliary"]
    names = auxiliary if isinstance(auxiliary, list) else [auxiliary]
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"auxiliary of a baseline is {auxiliary!r}: give shuffled, a factor, a list of factors."
        )
    return {key: value for key, value in baseline.items() if key != "auxiliary"}, auxiliary


def _split_training(baseline: str | dict[str, Any]) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Split off what a baseline has of its own of the data module and of the trainer.

    Raises:
        UserError: If they are no settings, or those that all arms share.
    """
    found: dict[str, dict[str, Any]] = {"trainer": {}, "data": {}}
    if isinstance(baseline, str):
        return baseline, found
    for key in found:
        own = baseline.get(key) or {}
        if not isinstance(own, dict) or (key == "data" and _SHARED_DATA & own.keys()):
            raise UserError(
                f"{key} of a baseline is {own!r}: give settings of its training, such as "
                "`trainer: {max_epochs: 5}` or `data: {augment: light}`; all arms have the same "
                "images and labels."
            )
        found[key] = own
    return {key: value for key, value in baseline.items() if key not in found}, found


def _told(arm: dict[str, Any], auxiliary: str | list[str]) -> dict[str, Any]:
    """Give an arm other auxiliary labels.

    Raises:
        UserError: If its model learns none.
    """
    model: Any = locate(arm["model"]["class_path"])
    if not model.uses_auxiliary:
        raise UserError(
            f"auxiliary of the baseline {model.__name__} is {auxiliary!r}, and it learns no "
            "auxiliary labels: leave it out."
        )
    data = arm["data"]
    return {**arm, "data": {**data, "init_args": {**data["init_args"], "auxiliary": auxiliary}}}


def _per_seed(arm: dict[str, Any], name: str, seeds: int) -> list[dict[str, Any]]:
    configs = []
    for k in range(seeds):
        seed = arm["seed_everything"] + k
        data = {**arm["data"], "init_args": {**arm["data"]["init_args"], "seed": seed}}
        configs.append({**arm, "seed_everything": seed, "data": data, "arm": name})
    return configs


def _inherit(
    baseline: str | dict[str, Any], main: dict[str, Any], what: str
) -> tuple[dict[str, Any], str | None]:
    """Give a baseline the main model's settings that it has too and does not say itself.

    Returns:
        The model and the name of the arm, None for that of the class.
    """
    given: Any = {"class_path": baseline} if isinstance(baseline, str) else baseline
    unknown = given.keys() - {"class_path", "init_args", "name"}
    settings, own_name = given.get("init_args", {}), given.get("name", "")
    if unknown or not isinstance(settings, dict) or not isinstance(own_name, str):
        raise UserError(
            f"{what} is {baseline!r}: give a class, or class_path and init_args with settings, and "
            "for a baseline a name where another arm is of the same class, auxiliary for labels "
            "other than those discovered, and data and trainer for a training of its own."
        )
    classes = {cls.__name__: cls for cls in concrete_subclasses(MultitaskModel)}
    name = str(given.get("class_path", ""))
    cls: Any = classes.get(name) or (locate(name) if "." in name else None)
    if cls is None:
        raise UserError(f"{what} is {name!r}, which there is not: {closest(name, sorted(classes))}")
    if not (inspect.isclass(cls) and issubclass(cls, MultitaskModel)) or inspect.isabstract(cls):
        raise UserError(
            f"{what} is {name!r}, which is no multi-task model: "
            f"{closest(name.rpartition('.')[2], sorted(classes))}"
        )
    known, defaults = constructor_defaults(cls), constructor_defaults(locate(main["class_path"]))
    # A file of weights and their size are of the network that is named beside them.
    apart = _OF_NETWORK if ("backbone" in known) != ("backbone" in defaults) else set()
    # What the main model has by default, such as an HRNet, the baseline has its own default of.
    shared = {
        key: value
        for key, value in main["init_args"].items()
        if key in known and key not in apart and (key not in defaults or value != defaults[key])
    }
    model = {"class_path": name, "init_args": {**shared, **given.get("init_args", {})}}
    return model, given.get("name")


def _resolve_arm(arm: dict[str, Any], model: str) -> dict[str, Any]:
    """Fill in the defaults of an arm and check it, as if it had been given by itself.

    Args:
        arm: The settings.
        model: Key of those that its model is given by.
    """
    parser = resolving_parser("multitask")
    with given_at(model, "model"):
        return resolve(parser, parser.parse_object(arm))
