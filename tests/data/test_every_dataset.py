"""What holds for every data set, those of later files included, on its own small file set."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.codes import LABELLED
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.settings.build import constructor_defaults
from detaux_pl.settings.parser import explain
from tests.found import built, check_refusal, every, written


@dataclass
class Files:
    """The files of a data set, and what is made of them."""

    cls: type[FactorDataset]
    root: Path
    given: dict[str, Any]
    ready: FactorDataset

    def make(self, **other: Any) -> FactorDataset:
        """Return a new one, that is not set up."""
        made: FactorDataset = built(
            FactorDataset,
            self.cls,
            self.given | other,
            cache_dir=str(self.root.parent / "cache"),
        )
        return made

    def places(self, elsewhere: Path) -> dict[str, str]:
        """Return the arguments that name files, as if these were in another folder."""
        root = str(self.root)
        return {
            name: value.replace(root, str(elsewhere))
            for name, value in self.given.items()
            if isinstance(value, str) and root in value
        }


Get = Callable[[type[FactorDataset]], Files]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Get]:
    """Of each data set the files, written once, and one that is set up; not to be changed."""
    known: dict[type[FactorDataset], Files] = {}
    with pytest.MonkeyPatch.context() as monkeypatch:

        def get(cls: type[FactorDataset]) -> Files:
            if cls not in known:
                folder = tmp_path_factory.mktemp(cls.__name__)
                (folder / "files").mkdir()
                given = written(cls, folder / "files", monkeypatch)
                known[cls] = Files(cls, folder / "files", given, None)  # type: ignore[arg-type]
                known[cls].ready = known[cls].make()
                known[cls].ready.describe()
                known[cls].ready.prepare()
                known[cls].ready.setup()
            return known[cls]

        yield get


def everything(dataset: FactorDataset) -> list[Any]:
    """What is known of a data set, its images included."""
    return [
        dataset.factor_names,
        tuple(dataset.factor_sizes),
        tuple(dataset.image_shape),
        dataset.ids.tolist(),
        dataset.splits.tolist(),
        dataset.factors.tolist(),
        dataset.fingerprint(),
        dataset.images(torch.arange(len(dataset))).numpy().tobytes(),
    ]


@every(FactorDataset)
def test_description_is_known_before_any_image_is_read(cls: type[FactorDataset], files: Get):
    dataset, ready = files(cls).make(), files(cls).ready
    dataset.describe()
    assert dataset.pixels is None
    assert dataset.factor_names == ready.factor_names
    assert tuple(dataset.factor_sizes) == tuple(ready.factor_sizes)
    assert tuple(dataset.image_shape) == tuple(ready.image_shape)
    assert dataset.n_classes == ready.n_classes >= 2
    assert dataset.principal in dataset.factor_names
    assert len(set(dataset.factor_names)) == len(dataset.factor_names) == len(dataset.factor_sizes)
    for name, values in dataset.value_names.items():
        assert len(values) == dataset.factor_sizes[dataset.factor_names.index(name)]


@every(FactorDataset)
def test_ids_splits_and_factors_fit_each_other(cls: type[FactorDataset], files: Get):
    dataset = files(cls).ready
    n = len(dataset)
    assert dataset.ids.shape == dataset.splits.shape == (n,)
    assert dataset.ids.dtype == np.int64 or dataset.ids.dtype.kind == "U"
    assert (dataset.ids[1:] > dataset.ids[:-1]).all(), "ids are unique and ascend"
    assert dataset.splits.dtype == np.int8
    assert dataset.factors.dtype == np.int64
    assert dataset.factors.shape == (n, len(dataset.factor_names))
    assert (dataset.factors >= 0).all()
    assert (dataset.factors < dataset.factor_sizes).all()
    assert [len(dataset.rows(split)) > 0 for split in LABELLED] == [True] * 3
    for name in ("n_train", "n_val", "n_test"):
        if name in files(cls).given:
            images = files(cls).given[name] * (1 if dataset.partners is None else 2)
            assert len(dataset.rows(name.removeprefix("n_"))) == images
    dataset.check()


@every(FactorDataset)
def test_images_are_bytes_of_the_stated_shape_in_whatever_order(
    cls: type[FactorDataset], files: Get
):
    dataset = files(cls).ready
    n = len(dataset)
    whole = dataset.images(torch.arange(n))
    assert whole.dtype == torch.uint8
    assert tuple(whole.shape) == (n, *dataset.image_shape)
    assert whole.float().std() > 0
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:20]
    rows = torch.cat([order, order[:3]])
    assert dataset.images(rows).equal(whole[rows])
    assert tuple(dataset.images(rows[:0]).shape) == (0, *dataset.image_shape)
    if dataset.pixels is not None:
        assert torch.as_tensor(dataset.pixels).equal(whole)


@every(FactorDataset)
def test_it_is_the_same_when_set_up_again(cls: type[FactorDataset], files: Get):
    expected = everything(files(cls).ready)
    dataset = files(cls).make()
    for _ in range(2):
        dataset.describe()
        dataset.setup()
        assert everything(dataset) == expected


@every(FactorDataset)
def test_a_worker_process_gets_it_whole(cls: type[FactorDataset], files: Get):
    dataset = files(cls).ready
    sent = pickle.dumps(dataset)
    assert everything(pickle.loads(sent)) == everything(dataset)


@every(FactorDataset)
def test_other_files_have_another_fingerprint(
    cls: type[FactorDataset], files: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = files(cls)
    told = own.ready.fingerprint()
    if told is None:
        said = cls.published or cls.fingerprint is not FactorDataset.fingerprint
        assert said or not own.places(tmp_path), (
            f"{cls.__name__} reads files that may change: give a fingerprint() of them"
        )
        return
    again = own.make()
    again.describe()
    assert again.fingerprint() == told
    moved = own.make(**own.places(Path(shutil.copytree(own.root, tmp_path / "moved"))))
    moved.describe()
    assert moved.fingerprint() == told
    (tmp_path / "other").mkdir()
    other = own.make(**written(cls, tmp_path / "other", monkeypatch, seed=1))
    other.describe()
    assert other.fingerprint() != told


@every(FactorDataset)
def test_missing_files_are_one_line(cls: type[FactorDataset], files: Get, tmp_path: Path):
    own = files(cls)
    nowhere = own.places(tmp_path / "absent")
    if not nowhere:
        return  # it needs no file
    dataset = own.make(**nowhere)
    with pytest.raises(UserError) as caught:  # noqa: PT012  whichever reads first
        dataset.describe()
        dataset.setup()
    check_refusal(caught.value, "absent")


@every(FactorDataset)
def test_a_principal_factor_that_does_not_exist_is_refused_with_the_choices(
    cls: type[FactorDataset], files: Get
):
    own = files(cls)
    if "principal" not in constructor_defaults(cls):
        assert own.ready.principal == own.ready.factor_names[0]  # there is nothing to choose
        return
    try:
        dataset = own.make(principal="no_such_factor")
        dataset.describe()
    except (ValueError, UserError) as error:
        check_refusal(explain(error), "'no_such_factor'", *own.ready.factor_names[:2])
    else:
        assert dataset.factor_names == ("no_such_factor",), "the user names the only factor"
