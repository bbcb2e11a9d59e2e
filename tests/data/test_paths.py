"""Strings are paths, in every class whose constructor takes one."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from detaux_pl.artifacts.codes import Codes, CodesShard, FactorInfo
from detaux_pl.artifacts.labels import AuxiliaryLabels, load_tasks
from detaux_pl.data.datasets.image_folder import ImageFolder
from detaux_pl.data.modules import LabelledDataModule
from tests.data.written import write_class_folders

ROOMS = ("artifacts", "data", "inference", "multitask", "disentangle", "cluster")


def _takes_path(annotation: Any) -> bool:
    return annotation is Path or Path in get_args(annotation)


def _classes() -> Iterator[tuple[type, list[str]]]:
    for room in ROOMS:
        package = import_module(f"detaux_pl.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for cls in vars(import_module(module.name)).values():
                if not inspect.isclass(cls) or cls.__module__ != module.name:
                    continue
                if cls.__name__.startswith("_") or hasattr(cls, "__dataclass_fields__"):
                    continue  # made by this package alone
                if inspect.isabstract(cls) or not inspect.isfunction(cls.__init__):
                    continue
                hints = {}
                for base in cls.__mro__:  # as far as **kwargs hands on
                    if base.__module__.startswith("detaux_pl") and "__init__" in vars(base):
                        hints |= get_type_hints(base.__init__)
                        if "kwargs" not in inspect.signature(base.__init__).parameters:
                            break
                names = [name for name, hint in hints.items() if _takes_path(hint)]
                if names:
                    yield cls, names


CLASSES = list(_classes())
_GIVEN: dict[str, dict[str, Any]] = {
    "ImageTable": {"path": "x/table.csv", "principal": "label"},
    "ImageArrays": {"path": "x/arrays.npz", "principal": "label"},
    "HuggingFace": {"path": "x/set", "principal": "label"},
    "LabelledDataModule": {"dataset": None},
    "PixelCache": {"shape": (1, 1, 2, 2)},
    "StageFolder": {"name": "cluster"},
}
"""What a class needs beside its paths."""
_DO = ("CodesShard", "PixelWriter", "Run", "Bundle")
"""Classes that look at their path at once, which are tried by themselves."""


def test_they_are_all_found():
    assert {cls.__name__ for cls, _ in CLASSES} >= {
        "ImageFolder", "ImageTable", "ImageArrays", "HuggingFace", "FACES", "CIFAR10", "SVHN",
        "StanfordCars", "MNISTSTL10", "DSprites", "Cars3D", "SmallNORB", "MPI3D", "Shapes3D",
        "SyntheticShapes3D", "LabelledDataModule", "PixelCache", "StageFolder", "CodesShard",
        "PixelWriter", "Run",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "names"),
    [pytest.param(*each, id=each[0].__name__) for each in CLASSES if each[0].__name__ not in _DO],
)
def test_a_string_is_the_path(cls: type, names: list[str]):
    given = _GIVEN.get(cls.__name__, {})
    texts = {name: given.get(name, f"x/{name}") for name in names}
    built, same = (
        cls(**{**given, **{name: kind(text) for name, text in texts.items()}})
        for kind in (str, Path)
    )
    for name, text in texts.items():
        for each in (built, same):
            value = vars(each)["run_dir" if name == "run_dir" else name]
            assert value == (
                text if cls.__name__ == "HuggingFace" and name == "path" else Path(text)
            )


def test_data_and_artifacts_are_read_and_written_by_strings(tmp_path: Path):
    write_class_folders(tmp_path / "images")
    folder = ImageFolder(str(tmp_path / "images"), image_size=8, cache_dir=str(tmp_path / "cache"))
    folder.setup()
    assert folder.pixels is not None
    assert folder.pixels.shape == (30, 3, 8, 8)
    n = len(folder)
    info = FactorInfo(("label",), (3,), "label")
    codes = Codes(np.zeros((n, 2, 1), np.float32), folder.ids, folder.splits, folder.factors, info)
    codes.save(str(tmp_path / "codes"))
    assert Codes.load(str(tmp_path / "codes")).values.shape == (n, 2, 1)
    shard = CodesShard(str(tmp_path / "other"), 0, 1, {"code": (2, 1)})
    assert shard.folder == tmp_path / "other" / "rank0"
    labels = AuxiliaryLabels(
        folder.ids, folder.splits, folder.labels, np.zeros(n, bool), np.ones(n, np.float32), 3, {}
    )
    labels.save(str(tmp_path / "labels"))
    assert len(load_tasks(str(tmp_path / "labels"))) == 1
    data = LabelledDataModule(folder, labels=str(tmp_path / "labels"), batch_size=4)
    data.setup("fit")
    assert data.task_sizes == (3, 3)
    np.testing.assert_array_equal(data.targets[:, 1], folder.labels)
