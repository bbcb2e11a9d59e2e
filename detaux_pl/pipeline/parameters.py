"""The parameters of a sweep: settings of a chain by dotted name, and what they may be."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import read_yaml
from detaux_pl.pipeline.given import STAGE_KEYS, read_given
from detaux_pl.pipeline.study import Scalar

_OWN = ("run_dir", "redo", "until", "jobs", "config")
"""What a sweep says of its trials itself."""


@dataclass(frozen=True)
class Parameter:
    """What differs between the trials of a sweep.

    Args:
        name: A dotted setting of the chain, or the name of what the variants are variants of.
        choices: Its values, or labels of its variants; empty for a range.
        variants: Settings of each variant by dotted name; None where there are none.
        files: Of variants that are a file of a stage alone, that file.
        low: Lower end of a range.
        high: Upper end, which belongs to it.
        log: Whether the range is drawn from on a logarithmic scale.
    """

    name: str
    choices: tuple[Scalar, ...] = ()
    variants: Mapping[str, dict[str, Any]] | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def distribution(self) -> BaseDistribution:
        """What its value is taken from."""
        if self.choices:
            return CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(float(self.low), float(self.high), log=self.log)

    @property
    def keys(self) -> set[str]:
        """The settings of the chain that it changes."""
        if self.variants is None:
            return {self.name}
        return {key for settings in self.variants.values() for key in settings}

    def settings(self, value: Scalar) -> dict[str, Any]:
        """The settings of the chain, by dotted name, for one of its values."""
        return {self.name: value} if self.variants is None else self.variants[str(value)]


def read_chain(given: Any, folder: Path) -> dict[str, Any]:
    """Read the settings of the chain of a sweep, with the stage files that it names.

    Args:
        given: The settings, or the path of a file of them.
        folder: Folder that a relative path starts from.

    Raises:
        UserError: If there is no such file.
    """
    if isinstance(given, dict):
        return {name: _read_stage(name, value, folder) for name, value in given.items()}
    if not given:
        raise UserError("chain is not set: give the file of the chain that every trial runs.")
    path = folder / given
    if not path.is_file():
        raise UserError(f"chain is {given!r}, but there is no file {path}: give that of a chain.")
    return read_given(["--config", str(path)])[1]


def read_parameters(given: Mapping[str, Any], folder: Path, sampler: str) -> list[Parameter]:
    """Read the parameters of a sweep.

    Args:
        given: By name, a list of choices, a range `{low, high, log}`, or settings by the labels
            of named variants.
        folder: Folder that the stage files of variants are relative to.
        sampler: `grid` or `random`.

    Raises:
        UserError: If one is empty, does not fit the sampler, is no setting of a trial, or two set
            the same.
    """
    found = [
        _range(name, value, sampler)
        if _is_range(value)
        else _variants(name, value, folder)
        if isinstance(value, Mapping)
        else _choices(name, value, folder)
        for name, value in _rejoin(given).items()
    ]
    if not found:
        raise UserError("parameters are empty: give at least one setting with its choices.")
    owner: dict[str, str] = {}
    for each in found:
        for key in sorted(each.keys):
            if key.split(".")[0] in _OWN:
                raise UserError(
                    f"{key} cannot be a parameter: every trial has a run folder of its own, and "
                    "the sweep says what runs in it."
                )
            if key in owner:
                raise UserError(
                    f"{key} is set twice, by the parameters {owner[key]} and {each.name}: keep one."
                )
            owner[key] = each.name
    return found


def vary(chain: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Change settings of a chain.

    Args:
        chain: The chain's settings, nested.
        settings: New values by dotted name; what is nested deeper is set later.

    Raises:
        UserError: If a name leads through something that has no settings.
    """
    varied = copy.deepcopy(dict(chain))
    for key in sorted(settings, key=lambda key: key.count(".")):
        node = varied
        *path, last = key.split(".")
        for depth, name in enumerate(path):
            below = node.get(name)
            if isinstance(below, str) and key.split(".")[depth + 1] == "init_args":
                below = {"class_path": below}
            elif below is None:
                below = {}
            elif not isinstance(below, dict):
                raise UserError(
                    f"the parameter {key} has no place in the chain, whose "
                    f"{'.'.join(path[: depth + 1])} is {below!r}."
                )
            node[name] = below
            node = below
        node[last] = copy.deepcopy(settings[key])
    return varied


def _rejoin(given: Mapping[str, Any]) -> dict[str, Any]:
    """Undo what the parser makes of `--parameters.a.b [1]`: {a: {b: [1]}}."""
    joined: dict[str, Any] = {}
    for name, value in given.items():
        parts = value.items() if isinstance(value, Mapping) and not _is_range(value) else ()
        nested = {f"{name}.{sub}": v for sub, v in parts if isinstance(v, list) or _is_range(v)}
        if len(nested) < len(parts) or not parts:
            joined[name] = value
        joined |= nested
    return joined


def _is_range(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and value.keys() <= {"low", "high", "log"}


def _range(name: str, value: Mapping[str, Any], sampler: str) -> Parameter:
    low: Any = value.get("low")
    high: Any = value.get("high")
    log = value.get("log", False)
    fits = isinstance(log, bool) and _is_number(low) and _is_number(high)
    if not fits or low >= high or (log and low <= 0):
        raise UserError(
            f"the range of {name} is {dict(value)!r}: give low and high, low < high, and log: true "
            "for a logarithmic scale, whose low is positive."
        )
    if sampler == "grid":
        raise UserError(
            f"{name} is a range, which a grid has no use for: list its choices, or set sampler: "
            "random."
        )
    return Parameter(name, low=low, high=high, log=log)


def _choices(name: str, value: Any, folder: Path) -> Parameter:
    if not isinstance(value, list):
        raise UserError(
            f"the parameter {name} is {value!r}: give a list of choices, a range {{low, high}}, or "
            "named variants."
        )
    if not value:
        raise UserError(f"the parameter {name} has no choices: give at least one.")
    for k, choice in enumerate(value):
        if not isinstance(choice, Scalar):
            raise UserError(
                f"a choice of {name} is {json.dumps(choice)}: give single values, or name them as "
                f"variants: `label: {{{name}: ...}}`."
            )
        if choice in value[:k]:
            equal = next(each for each in value[:k] if each == choice)
            if repr(equal) == repr(choice):
                raise UserError(f"the parameter {name} has the choice {choice!r} twice: keep one.")
            raise UserError(
                f"the parameter {name} has the choices {equal!r} and {choice!r}, which are equal "
                "(Optuna records one of them for both): keep one, or sweep the other by itself."
            )
    if name in STAGE_KEYS:  # files
        return _variants(name, {str(choice): {name: choice} for choice in value}, folder)
    return Parameter(name, tuple(value))


def _variants(name: str, value: Mapping[Any, Any], folder: Path) -> Parameter:
    if not value:
        raise UserError(f"the parameter {name} has no choices: give at least one.")
    variants: dict[str, dict[str, Any]] = {}
    files: dict[str, Path] = {}
    for label, settings in value.items():
        if not isinstance(settings, Mapping) or not settings:
            raise UserError(
                f"the variant {label} of {name} is {settings!r}: give the settings of the chain "
                "that it changes, by dotted name."
            )
        variants[str(label)] = {
            str(key): _read_stage(str(key), setting, folder) for key, setting in settings.items()
        }
        (key, setting), *others = settings.items()
        if not others and key in STAGE_KEYS and isinstance(setting, str):
            files[str(label)] = folder / setting
    return Parameter(name, tuple(variants), variants, files)


def _read_stage(name: str, value: Any, folder: Path) -> Any:
    """Read the file that stands for the settings of a whole stage.

    Raises:
        UserError: If there is none.
    """
    if name not in STAGE_KEYS or isinstance(value, Mapping):
        return value
    if not isinstance(value, str) or not (folder / value).is_file():
        raise UserError(
            f"{name} is {value!r}, but there is no such file in {folder}: give the settings of the "
            "stage, or a file of them."
        )
    return read_yaml(folder / value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
