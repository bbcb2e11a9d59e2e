"""Every example in a docstring or document runs; what a config can name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import detaux_pl
from detaux_pl.cluster.base import Clusterer
from detaux_pl.cluster.candidates import Selection
from detaux_pl.cluster.discover import Discovery
from detaux_pl.data.augmentation import Augmentation
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.data.noise import SaltPepper
from detaux_pl.data.pairings import Pairing
from detaux_pl.disentangle.base import Disentangler
from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.losses.regularizers.base import Regularizer
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.weighting.base import Weighting

ROOT = Path(__file__).parents[1]
MODULES = {
    info.name: Path(info.module_finder.find_spec(info.name).origin)
    for info in pkgutil.walk_packages(detaux_pl.__path__, "detaux_pl.")
}
EXAMPLES = [name for name, path in MODULES.items() if ">>> " in path.read_text(encoding="utf-8")]
DOCUMENTS = [path for path in (ROOT / "docs").glob("*.md") if ">>> " in path.read_text("utf-8")]
NAMED = (
    Augmentation, Clusterer, Discovery, Disentangler, FactorDataModule, FactorDataset, InfoNCE,
    MultitaskModel, Pairing, Regularizer, SaltPepper, Selection, Weighting,
)  # fmt: skip
"""What a config can name, or a base of it."""
OPTIONAL = {
    "detaux_pl.cluster.nr_kmeans": "clustpy",
    "detaux_pl.multitask.weighting.torchjd": "torchjd",
}


def run(tests: list[doctest.DocTest]) -> int:
    """Run examples and count them; torch's generators stay as they are."""
    runner, said = doctest.DocTestRunner(verbose=False), list[str]()
    with torch.random.fork_rng([]):
        attempted = sum(runner.run(test, out=said.append).attempted for test in tests)
    assert not said, "".join(said)
    return attempted


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_a_module(name: str):
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    assert run(doctest.DocTestFinder().find(importlib.import_module(name))) > 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_examples_of_a_document(document: Path):
    # Fences end an example.
    text = document.read_text(encoding="utf-8").replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, {}, document.name, str(document), 0)
    assert run([test]) > 0


def concrete(cls: type) -> Iterator[type]:
    """The public classes that derive from one, itself included, of those that can be built."""
    # Lightning's metaclass lets what is abstract be built: inspect.isabstract does not tell.
    members = (getattr(cls, name, None) for name in dir(cls))
    abstract = any(getattr(member, "__isabstractmethod__", False) for member in members)
    if not abstract and not cls.__name__.startswith("_"):
        yield cls
    for child in cls.__subclasses__():
        yield from concrete(child)


def needs_files(cls: type) -> bool:
    """Whether it is a data set that cannot be built from its defaults: its files come first."""
    parameters = inspect.signature(cls).parameters.values()
    return issubclass(cls, FactorDataset) and any(p.default is p.empty for p in parameters)


def test_what_a_config_can_name_has_an_example():
    for name in MODULES:
        if name != "detaux_pl.__main__":
            importlib.import_module(name)
    found = {cls for base in NAMED for cls in concrete(base)}
    ours = {cls for cls in found if cls.__module__ in MODULES and not needs_files(cls)}
    assert len(ours) > 50
    without = sorted(cls.__name__ for cls in ours if ">>> " not in (cls.__doc__ or ""))
    assert not without, f"{', '.join(without)}: write an `Example:` with >>> into the docstring"


def test_every_metric_has_an_example():
    metrics = {  # a file of one metric is named after it
        path.stem: getattr(importlib.import_module(name), path.stem, None)
        for name, path in MODULES.items()
        if name.startswith("detaux_pl.metrics.")
    }
    functions = {name: metric for name, metric in metrics.items() if inspect.isfunction(metric)}
    assert len(functions) >= 11
    without = sorted(name for name, f in functions.items() if ">>> " not in (f.__doc__ or ""))
    assert not without, f"{', '.join(without)}: write an `Example:` with >>> into the docstring"
