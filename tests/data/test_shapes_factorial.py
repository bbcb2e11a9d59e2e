from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from detaux_pl.data.datasets.synthetic_shapes3d import SyntheticShapes3D


def _set_up(cache_dir: Path, **arguments: object) -> SyntheticShapes3D:
    dataset = SyntheticShapes3D(image_size=16, cache_dir=cache_dir, **arguments)  # type: ignore[arg-type]
    dataset.setup()
    return dataset


@pytest.fixture(scope="module")
def full(cache_dir: Path) -> SyntheticShapes3D:
    return _set_up(cache_dir)


def test_every_combination_once_in_the_order_of_the_original(full: SyntheticShapes3D) -> None:
    np.testing.assert_array_equal(full.ids, np.arange(480_000))
    np.testing.assert_array_equal(
        np.ravel_multi_index(tuple(full.factors.T), full.factor_sizes), full.ids
    )
    assert full.factors[:16, 5].tolist() == [*range(15), 0]  # orientation is fastest


def test_compositional_split(full: SyntheticShapes3D) -> None:
    held_out = (full.factor("floor_hue") >= 5) & (full.factor("wall_hue") >= 5)
    np.testing.assert_array_equal(full.splits == 2, held_out)
    assert [len(full.rows(s)) for s in ("train", "val", "test")] == [342_000, 18_000, 120_000]
    # Balanced in all that does not define it, as docs/methods.md, 'Data and pairs', says.
    for name in ("object_hue", "scale", "shape", "orientation"):
        assert len(set(np.bincount(full.factor(name)[full.rows("test")]).tolist())) == 1


def test_random_split_is_as_large_and_independent_of_the_hues(cache_dir: Path) -> None:
    dataset = _set_up(cache_dir, split="random")
    assert np.bincount(dataset.splits).tolist() == [342_000, 18_000, 120_000]
    hues = dataset.factors[dataset.rows("test"), :2] >= 5
    assert hues.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.01)


@pytest.mark.parametrize("split", ["compositional", "random"])
def test_numbers_draw_nested_parts_of_the_same_splits(cache_dir: Path, split: str) -> None:
    whole = _set_up(cache_dir, split=split)
    small = _set_up(cache_dir, split=split, n_train=100, n_val=20, n_test=50)
    large = _set_up(cache_dir, split=split, n_train=1000, n_val=20, n_test=60)
    assert (np.diff(small.ids) > 0).all()
    assert np.bincount(small.splits).tolist() == [100, 20, 50]
    for part in (small, large):
        np.testing.assert_array_equal(part.splits, whole.splits[part.ids])
        np.testing.assert_array_equal(part.factors, whole.factors[part.ids])
    assert set(small.ids) < set(large.ids)


def test_seed_draws(cache_dir: Path) -> None:
    one, again, other = (_set_up(cache_dir, n_train=100, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.ids, again.ids)
    assert not np.array_equal(one.rows("train"), other.rows("train"))
    np.testing.assert_array_equal(one.ids[one.rows("test")], other.ids[other.rows("test")])


@pytest.mark.parametrize("principal", SyntheticShapes3D.factor_names)
def test_small_splits_have_every_class(cache_dir: Path, principal: str) -> None:
    dataset = _set_up(cache_dir, principal=principal, n_train=600, n_val=100, n_test=100)
    dataset.check()
    assert len(np.unique(dataset.labels[dataset.rows("train")])) == dataset.n_classes


def test_dataset_survives_pickling(full: SyntheticShapes3D) -> None:
    copy = pickle.loads(pickle.dumps(full))
    np.testing.assert_array_equal(copy.splits, full.splits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "both"}, "compositional or random"),
        ({"n_train": 342_001}, "n_train is 342001: give 1 to 342000"),
        ({"n_val": 0}, "n_val is 0"),
        ({"n_test": -1}, "n_test is -1"),
        ({"principal": "digit"}, "floor_hue, wall_hue"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticShapes3D(**arguments)  # type: ignore[arg-type]
