"""Where a run and its data lie now: places are no results, and the newest given ones count."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import read_kind, read_text, read_yaml, write_json
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.settings.build import DataConfig, Spec

PLACES = ("root", "path", "cache_dir", "unlabelled")
"""What data sets call the places of their files."""
_FILE = "places.json"
_OF_RUN = {"disentangle", "evaluate", "cluster", "refine", "multitask", "discoveries"}


def at_places(data: Spec, places: Mapping[str, str | None]) -> Spec:
    """Return the settings of a data module whose data set lies elsewhere.

    Args:
        data: Its settings.
        places: By name, where it lies.

    Raises:
        UserError: If the data set has no such place.
    """
    moved = deepcopy(data)
    dataset = moved.get("init_args", {}).get("dataset", {})
    known = _places_of(data)
    for name, place in places.items():
        if name not in known:
            kind = str(dataset.get("class_path")).rsplit(".", 1)[-1]
            raise UserError(
                f"{name} is given as {place!r}, but {kind} has no such place: it has "
                f"{', '.join(known) or 'none'}."
            )
        dataset["init_args"][name] = place
    return moved


def newest_places(run_dir: Path) -> dict[str, str | None]:
    """Return where the data of a run were last, if not where its config says.

    Raises:
        ArtifactError: If the record of it is damaged.
    """
    path = run_dir / _FILE
    if not path.is_file():
        return {}
    places = read_kind(path, dict[str, str | None], "delete it, and give the places again")
    return {name: place for name, place in places.items() if name in PLACES}


def remember_places(run_dir: Path, data: Spec) -> None:
    """Keep where the data of a run lie, which are known to be its data, where that is news."""
    disentangle = StageFolder(run_dir, "disentangle")
    if not (disentangle.path / "config.yaml").is_file():
        return
    recorded = read_kind(disentangle.path / "config.yaml", DataConfig, "restore it")["data"]
    now, known = _places_of(data), {**_places_of(recorded), **newest_places(run_dir)}
    if now and now != {name: known.get(name) for name in now}:
        write_json(run_dir / _FILE, now)


def follow_folder(args: Sequence[str], dataset: str | None = None) -> list[str]:
    """Have a command whose config lies in a run folder work there, on the data where they lie.

    A run folder that was moved or copied still names the old folder in its configs, and the old
    place of data that were moved since. What the command line says counts all the same.

    Args:
        args: The words of the command.
        dataset: Dotted name of the setting that is the data set; None for none.
    """
    words = list(args)
    path = config_file(words)
    run_dir = None if path is None else _run_of(path)
    if path is None or run_dir is None:
        return words
    more = []
    if option(words, "run_dir") is None:
        said = read_yaml(path).get("run_dir")
        if not isinstance(said, str) or Path(said).resolve() != run_dir.resolve():
            more += ["--run_dir", str(run_dir)]
    elif Path(str(option(words, "run_dir"))).resolve() != run_dir.resolve():
        return words
    if dataset is not None and not _sets(words, dataset):
        more += [
            f"--{dataset}.init_args.{name}={'null' if place is None else place}"
            for name, place in newest_places(run_dir).items()
            if not _sets(words, f"{dataset}.init_args.{name}")
        ]
    return [*words, *more]


def config_file(args: Sequence[str]) -> Path | None:
    """Return the file that `--config` names; None where it names none.

    Raises:
        ArtifactError: If it, or another file of settings, is no text: parsers do not say which.
    """
    for word in args:
        value = Path(word.partition("=")[2] if word.startswith("--") else word)
        if value.suffix in (".yaml", ".yml", ".json") and value.is_file():
            read_text(value)
    given = option(args, "config")
    return Path(given) if given is not None and Path(given).is_file() else None


def option(args: Sequence[str], name: str) -> str | None:
    """Return the value of `--name value` or `--name=value`; given twice, the last one counts."""
    given = options(args, name)
    return given[-1] if given else None


def options(args: Sequence[str], name: str) -> list[str]:
    """Return every value that an option is given."""
    return [
        following if word == f"--{name}" else word.partition("=")[2]
        for word, following in zip(args, [*args[1:], ""], strict=False)
        if word == f"--{name}" or word.startswith(f"--{name}=")
    ]


def _run_of(config: Path) -> Path | None:
    """Return the run folder that a config is of; None where it lies in none."""
    if config.name != "config.yaml":
        return None
    folder = config.absolute().parent
    for run_dir in (folder, *folder.parents):
        stage = folder.relative_to(run_dir).parts[:1]
        of_run = not stage or stage[0] in _OF_RUN
        # A further discovery, which has such stages too, is a part of its run.
        if run_dir.parent.name == "discoveries" and (run_dir.parents[1] / "disentangle").is_dir():
            continue
        if of_run and (run_dir / "disentangle" / "stage.json").is_file():
            return run_dir
    try:
        manifest = StageFolder(folder, "").manifest
    except ArtifactError:
        return None  # which the command will meet itself
    parts = () if manifest is None else Path(manifest["stage"]).parts
    if not parts or folder.parts[-len(parts) :] != parts:
        return None
    return Path(*folder.parts[: -len(parts)])


def _places_of(data: Spec) -> dict[str, str | None]:
    init_args = data.get("init_args", {}).get("dataset", {}).get("init_args", {})
    # Of tables, `unlabelled` says whether there are such rows.
    held = {name: init_args[name] for name in PLACES if name in init_args}
    return {name: place for name, place in held.items() if not isinstance(place, bool)}


def _sets(words: Sequence[str], name: str) -> bool:
    """Whether a word sets a dotted name, from which `init_args` may be left out, or all of it."""
    parts = [re.escape(part) for part in name.split(".")]
    pattern = ""
    for part in parts:
        pattern += rf"(\.{part})?" if part == "init_args" else (rf"\.{part}" if pattern else part)
    return any(re.match(rf"--{pattern}(=|$)", word) for word in words)
