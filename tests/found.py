"""What the package and its configs hold, found by walking them: no class is named here."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml

from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.settings.build import build, constructor_defaults, import_room
from detaux_pl.settings.choices import concrete_subclasses
from detaux_pl.settings.parser import explain

ROOT = Path(__file__).parents[1]


def subclasses(base: type) -> Iterator[type]:
    """Every class of the package below one, abstract or not, as tests define others."""
    import_room(base.__module__.split(".")[1])
    seen = {base}
    rest = [base]
    while rest:
        for child in rest.pop().__subclasses__():
            if child not in seen:
                seen.add(child)
                rest.append(child)
                if child.__module__.startswith("detaux_pl."):
                    yield child


def classes(base: type) -> list[type]:
    """Every class of the package below one that can be built, by name."""
    below = set(subclasses(base))
    return sorted(below & set(concrete_subclasses(base)), key=lambda cls: cls.__name__)


def every(base: type) -> pytest.MarkDecorator:
    """Run a test on each of them."""
    found = classes(base)
    return pytest.mark.parametrize("cls", found, ids=[cls.__name__ for cls in found])


@cache
def configs() -> dict[Path, Any]:
    """Every shipped config, by its path below `configs`."""
    folder = ROOT / "configs"
    return {
        path.relative_to(folder): yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.yaml"))
    }


def entries(cls: type) -> list[dict[str, Any]]:
    """What the shipped configs build a class with, each once."""
    found: list[dict[str, Any]] = []
    for config in configs().values():
        for node in _nodes(config):
            named = node if isinstance(node, str) else node.get("class_path", "")
            if str(named).rsplit(".", 1)[-1] == cls.__name__:
                given = {} if isinstance(node, str) else node.get("init_args") or {}
                if given not in found:
                    found.append(given)
    return found


def _nodes(config: Any) -> Iterator[dict[str, Any] | str]:
    """Every mapping and every item of a list; a class may be given by its name alone."""
    if isinstance(config, dict):
        yield config
    for part in config.values() if isinstance(config, dict) else config:
        if isinstance(part, dict | list):
            yield from _nodes(part)
        elif isinstance(part, str):
            yield part


def variants(base: type, cls: type) -> dict[str, Any]:
    """Make a class by its shipped configs and by each choice of its arguments, by description.

    Of an argument that is a `Literal` or a `bool` every value is tried, the others being those of
    its first config or, without one, their defaults. What the class refuses is left out.
    """
    made, refused = _prototypes(base, cls)
    if not made:
        if missing := [text for text in refused if "pip install" in text]:
            pytest.skip(missing[0])
        pytest.fail(
            f"{cls.__name__} cannot be made to be tested ({refused[0][:200]}): give its arguments "
            f"defaults, or add an entry `class_path: {cls.__name__}` with `init_args` to a file in "
            "configs, as the table in CONTRIBUTING.md says.",
            pytrace=False,
        )
    return copy.deepcopy(made)


@cache
def _prototypes(base: type, cls: type) -> tuple[dict[str, Any], list[str]]:
    """Each of them, never used, and what was said of those that were refused."""
    given = entries(cls) or [{}]
    settings = [*given]
    for name, hint in get_type_hints(cls.__init__).items():
        if hint is bool or get_origin(hint) is Literal:
            choices = (False, True) if hint is bool else get_args(hint)
            settings += [{**given[0], name: choice} for choice in choices]
    defaults = constructor_defaults(cls)
    made: dict[str, Any] = {}
    refused: list[str] = []
    for each in settings:
        unlike = [f"{k}={v}" for k, v in each.items() if k not in defaults or v != defaults[k]]
        description = " ".join([cls.__name__, *unlike])
        if description not in made:
            try:
                made[description] = built(base, cls, each)
            except Exception as error:  # jsonargparse wraps what a constructor raises
                refused.append(str(explain(error)))
    return made, refused


def built(base: type, cls: type, given: Mapping[str, Any], **filled: Any) -> Any:
    """Build a class as the command line does."""
    path = f"{cls.__module__}.{cls.__name__}"
    return build(base, {"class_path": path, "init_args": dict(given)}, **filled)


def check_refusal(error: Exception, *words: str) -> None:
    """Check that an error is one line that says what was given and what to do."""
    text = str(error)
    assert "\n" not in text
    assert ": " in text, f"{text!r} does not say what to do"
    for word in words:
        assert word in text, f"{text!r} does not say {word!r}"


def dataset_of(chain: Mapping[str, Any]) -> type:
    """Return the data set that the config of a chain names."""
    named = chain["dataset"]
    name = (named if isinstance(named, str) else named["class_path"]).rsplit(".", 1)[-1]
    return next(cls for cls in classes(FactorDataset) if cls.__name__ == name)


def written(
    cls: type, root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0
) -> dict[str, Any]:
    """Write the test files of a data set into an empty folder; return the arguments for them."""
    name = cls.__module__.rsplit(".", 1)[-1]
    try:
        module = import_module(f"tests.data.files_of.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"tests.data.files_of.{name}":
            raise
        pytest.fail(
            f"data set {cls.__name__} has no test files: write tests/data/files_of/{name}.py with "
            "a function `write(root: Path, monkeypatch, seed: int = 0) -> dict` that fills the "
            "folder with a small file set in the true format and returns the arguments of "
            f"{cls.__name__} for it, such as {{'root': str(root)}}.",
            pytrace=False,
        )
    given: dict[str, Any] = module.write(root, monkeypatch, seed)
    return given
