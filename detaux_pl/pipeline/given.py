"""What the user gave for a chain: files and words, and what contradicts itself in them."""

from __future__ import annotations

import inspect
import json
import re
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import read_yaml
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.pipeline.stage import OF_CHAIN
from detaux_pl.settings.build import import_room
from detaux_pl.settings.choices import concrete_subclasses
from detaux_pl.settings.places import follow_folder, option, options

_NAMES = {
    "principal", "image_column", "split_column", "columns", "images", "split_array", "subset",
    "leave_out",
}  # fmt: skip
"""Settings of data sets that are names of the user's."""
_WITHOUT_RUN = ("--dataset", "--print_config", "--help", "-h")
"""What is said beside a `--run_dir` that no run needs to be in."""
_PLACES = {"root", "path", "unlabelled"}
STAGE_KEYS = tuple(stage.name for stage in OF_CHAIN)
"""The stages that the config of a chain describes."""


def refuse_linked(words: list[str]) -> None:
    """Refuse on the command line what a stage takes from the chain.

    Raises:
        UserError: If a word sets such a thing.
    """
    for word in words:
        for stage in OF_CHAIN:
            for source, target in stage.takes:
                # Short forms such as --disentangle.data.dataset leave init_args out.
                for name in (target, target.replace(".init_args", "")):
                    if re.match(rf"--{stage.name}\.{re.escape(name)}([.=]|$)", word):
                        raise UserError(
                            f"{word.partition('=')[0]} is shared by the stages: set --{source}."
                        )


def refuse_overruled(given: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse a stage's setting in the config file that the chain's own would overrule in silence.

    Raises:
        UserError: If a stage says another thing than the chain.
    """
    links = [(stage.name, *link) for stage in OF_CHAIN for link in stage.takes]
    for stage, source, target in links:
        value, used = given.get(stage), config[stage]
        for key in target.split("."):
            value = value.get(key) if isinstance(value, dict) else None
            used = used[key] if isinstance(used, dict) else None
        if value is not None and not _agrees(value, used):
            raise UserError(
                f"{stage}.{target} is {value!r}, but the chain's {source} is {used!r} and would "
                f"overrule it: set {source} at the top of the config."
            )


def _agrees(said: Any, used: Any) -> bool:
    """Whether a setting as it was written is part of the resolved one."""
    if isinstance(said, dict) and isinstance(used, dict):
        return all(key in used and _agrees(value, used[key]) for key, value in said.items())
    if isinstance(said, str) and isinstance(used, dict):
        return _agrees(said, used.get("class_path"))
    if isinstance(said, str) and isinstance(used, str):
        return used == said or used.endswith(f".{said}")
    return bool(said == used)


def with_config(args: list[str]) -> list[str]:
    """Go on with the config of a run folder that is named without one.

    Raises:
        UserError: If the folder has none, and no data are given for a new run.
    """
    run_dir = option(args, "run_dir")
    if run_dir is not None and option(args, "config") is None:
        path = Path(run_dir) / "config.yaml"
        if path.is_file():
            args = ["--config", str(path), *args]
        elif not any(word.startswith(_WITHOUT_RUN) for word in args):
            raise UserError(
                f"--run_dir is {run_dir}, where there is no run to go on with: give its folder, or "
                "the --config of a new one."
            )
    return follow_folder(args, "dataset")


def read_given(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Read the config file with the stage files that it or the command line names.

    A stage's file on the command line replaces that stage: jsonargparse would lay the one over
    the other, and the settings of one class under another.

    Returns:
        The arguments, with the settings in place of the files, and the settings.

    Raises:
        UserError: If there are two files of the same.
    """
    for name in ("config", *STAGE_KEYS):
        if len(files := [each for each in options(args, name) if _is_file(each)]) > 1:
            raise UserError(
                f"--{name} is given {len(files)} files ({', '.join(files)}), and a chain takes "
                "one: put what differs into words, such as --seed 3."
            )
    path = option(args, "config")
    if path is None or not _is_file(path):
        return args, {}
    config = read_yaml(Path(path))
    _keep_names(config.get("dataset"), Path(path))
    kind = option(args, "dataset") or option(args, "dataset.class_path")
    _drop_places(config.get("dataset"), kind)
    read = {"config"}
    for stage in STAGE_KEYS:
        file = option(args, stage)
        if file is not None and _is_file(file):
            config[stage] = read_yaml(Path(file))
            read.add(stage)
        else:
            _read_part(config, stage, Path(path).parent)
    discoveries = config.get("discoveries")
    for parts in discoveries.values() if isinstance(discoveries, dict) else ():
        for stage in (each.name for each in OF_CHAIN if each.further):
            if isinstance(parts, dict):
                _read_part(parts, stage, Path(path).parent)
    return ["--config", json.dumps(config, default=str), *_without_options(args, read)], config


def _read_part(config: dict[str, Any], stage: str, folder: Path) -> None:
    """Put the settings of a stage in place of the file that they are in."""
    given = config.get(stage)
    if isinstance(given, str) and _is_file(str(folder / given)):
        config[stage] = read_yaml(folder / given)


def _keep_names(dataset: Any, path: Path) -> None:
    """Take names of columns as they are written: YAML reads `1` as a number, `on` as true."""
    given = dataset.get("init_args") if isinstance(dataset, dict) else None
    if not isinstance(given, dict):
        return
    # Of the same file, with every scalar as its text.
    text = path.read_text(encoding="utf-8")
    written = yaml.load(text, Loader=yaml.BaseLoader)["dataset"]["init_args"]
    for name in _NAMES & given.keys():
        value = given[name]
        if isinstance(value, list):
            pairs = zip(value, written[name], strict=True)
            given[name] = [own if _is_misread(each) else each for each, own in pairs]
        elif _is_misread(value):
            given[name] = written[name]


def _is_misread(value: Any) -> bool:
    return isinstance(value, (bool, int, float, date))


def _drop_places(dataset: Any, kind: str | None) -> None:
    """Leave out where the data of another class lie, if the one that is asked for needs no such."""
    given = dataset.get("init_args") if isinstance(dataset, dict) else None
    if (
        kind is None
        or not isinstance(given, dict)
        or not isinstance(dataset.get("class_path"), str)
    ):
        return
    name = kind.rsplit(".", 1)[-1]
    if name == dataset["class_path"].rsplit(".", 1)[-1]:
        return
    import_room("data")
    for cls in concrete_subclasses(FactorDataset):
        if cls.__name__ == name:
            parameters = inspect.signature(cls).parameters
            for place in _PLACES & given.keys() & parameters.keys():
                if parameters[place].default is not inspect.Parameter.empty:
                    del given[place]


def _is_file(text: str) -> bool:
    """Whether an option is the path of a file; settings written out may be too long for one."""
    with suppress(OSError):
        return Path(text).is_file()
    return False


def _without_options(args: list[str], names: set[str]) -> list[str]:
    """Leave out options, with their values."""
    kept, skip = [], False
    for word in args:
        name, equals, _ = word.removeprefix("--").partition("=")
        if not skip and not (word.startswith("--") and name in names):
            kept.append(word)
            continue
        skip = not skip and not equals
    return kept
