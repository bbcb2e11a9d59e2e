from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from detaux_pl.data.factorial import Factorial


class Grid(Factorial):
    """4 × 5 × 6 combinations, the image of each being its id."""

    factor_names = ("a", "b", "c")
    factor_sizes = (4, 5, 6)
    image_shape = (1, 1, 1)

    def images(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self.ids[rows.numpy()].astype(np.uint8))[:, None, None, None]


class LateGrid(Factorial):
    """The same, as if a file told its sizes."""

    factor_names = Grid.factor_names
    image_shape = Grid.image_shape
    images = Grid.images

    def describe(self) -> None:
        self.factor_sizes = Grid.factor_sizes
        super().describe()


def _set_up(seed: int = 0, **numbers: int) -> Grid:
    grid = Grid("a", seed=seed, **numbers)
    grid.setup()
    return grid


def test_every_combination_once_in_mixed_radix_order() -> None:
    grid = _set_up()
    assert grid.ids.dtype == np.int64
    assert grid.splits.dtype == np.int8
    assert grid.ids.tolist() == list(range(120))
    np.testing.assert_array_equal(grid.factors @ [30, 6, 1], grid.ids)


def test_a_quarter_is_test_and_a_twentieth_of_the_rest_is_val() -> None:
    assert _set_up().capacities == (86, 4, 30)  # 4.5 is rounded to the even neighbour
    assert np.bincount(_set_up().splits).tolist() == [86, 4, 30]


def test_numbers_draw_nested_parts() -> None:
    whole, small, large = _set_up(), _set_up(n_train=9, n_test=5), _set_up(n_train=30, n_test=6)
    assert np.bincount(small.splits).tolist() == [9, 4, 5]
    assert (np.diff(small.ids) > 0).all()
    assert set(small.ids) < set(large.ids)
    for part in (small, large):
        np.testing.assert_array_equal(part.splits, whole.splits[part.ids])
        np.testing.assert_array_equal(part.factors, whole.factors[part.ids])
        np.testing.assert_array_equal(part.images(torch.arange(8)).ravel(), part.ids[:8])


def test_seed_draws() -> None:
    assert _set_up(1).splits.tolist() == _set_up(1).splits.tolist()
    assert _set_up(1).splits.tolist() != _set_up(2).splits.tolist()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"n_train": 87}, "n_train is 87: give 1 to 86, or null for all"),
        ({"n_val": 0}, "n_val is 0: give 1 to 4"),
        ({"n_test": 31}, "n_test is 31: give 1 to 30"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid("a", **numbers)


def test_sizes_that_are_described_check_the_numbers_later() -> None:
    late = LateGrid("a", n_train=9)
    late.setup()
    assert late.ids.tolist() == _set_up(n_train=9).ids.tolist()
    with pytest.raises(ValueError, match="n_train is 0: give at least 1, or null for all"):
        LateGrid("a", n_train=0)
    too_many = LateGrid("a", n_train=87)
    with pytest.raises(ValueError, match="n_train is 87: give 1 to 86"):
        too_many.describe()
