from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from detaux_pl.data.datasets.digit_scenes import DigitScenes, _draw_of_class, _paste

_BRIGHTEST = round(0.6 * 255)
"""No background is brighter: what is comes from a digit."""


def _windows(dataset: DigitScenes) -> NDArray[np.uint8]:
    """The quarter of each image that its digit covers, shape (N, 3, size / 2, size / 2)."""
    assert dataset.pixels is not None
    size = dataset.image_size // 2
    corners = dataset.corners[dataset.factor("location")]
    return np.stack(
        [
            image[:, row : row + size, column : column + size]
            for image, (row, column) in zip(dataset.pixels.numpy(), corners, strict=True)
        ]
    )


def test_held_out_digits_never_appear_in_training() -> None:
    dataset = DigitScenes(n_train=1500, n_val=500, n_test=500)
    dataset.setup()
    # At 16 pixels a digit is pasted as it is: where it is brighter than any background, the
    # image shows its very levels, by which each handwritten digit can be told.
    digits, classes = load_digits(return_X_y=True)
    levels = np.rint(digits / 16 * 255).astype(np.uint8)
    levels[levels <= _BRIGHTEST] = 0
    names = {row.tobytes(): i for i, row in enumerate(levels)}
    assert len(names) == len(levels)
    seen = _windows(dataset)[:, 0].reshape(-1, 64).copy()
    seen[seen <= _BRIGHTEST] = 0
    instance = np.array([names[row.tobytes()] for row in seen])
    np.testing.assert_array_equal(classes[instance], dataset.labels)
    train, val, test = (set(instance[dataset.rows(s)]) for s in ("train", "val", "test"))
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train) > 600
    assert len(val) > 200


def test_digit_is_composed_by_per_pixel_maximum() -> None:
    rng = np.random.default_rng(0)
    scenes = rng.random((20, 3, 8, 8), dtype=np.float32)
    glyphs = rng.random((20, 4, 4), dtype=np.float32)
    corners = rng.integers(0, 5, (20, 2))
    expected = scenes.copy()
    for i, (row, column) in enumerate(corners):
        for y in range(4):
            for x in range(4):
                for channel in range(3):
                    pixel = expected[i, channel, row + y, column + x]
                    expected[i, channel, row + y, column + x] = max(pixel, glyphs[i, y, x])
    _paste(scenes, glyphs, corners)
    np.testing.assert_array_equal(scenes, expected)


@pytest.mark.parametrize("image_size", [16, 32, 64])
@pytest.mark.parametrize("n_locations", [2, 4, 6, 8])
def test_locations_are_distinct_and_inside(image_size: int, n_locations: int) -> None:
    corners = DigitScenes(image_size=image_size, n_locations=n_locations).corners
    assert len(np.unique(corners, axis=0)) == n_locations
    assert corners.min() == 0
    assert corners.max() == image_size // 2


@pytest.mark.parametrize("image_size", [16, 32, 64])
def test_images_of_every_size(image_size: int) -> None:
    dataset = DigitScenes(image_size=image_size, n_train=40, n_val=5, n_test=5)
    dataset.setup()
    assert dataset.pixels is not None
    assert dataset.pixels.shape == (50, *dataset.image_shape) == (50, 3, image_size, image_size)
    pixels = dataset.pixels.numpy()
    assert pixels.dtype == np.uint8
    # Only the digit is bright, and it stands at its location.
    assert (pixels.max(axis=1) > _BRIGHTEST).any(axis=(1, 2)).all()
    bright = (pixels > _BRIGHTEST).sum()
    assert bright == (_windows(dataset) > _BRIGHTEST).sum()


def test_backgrounds_of_a_class_share_their_hue_and_differ_otherwise() -> None:
    dataset = DigitScenes(n_train=400, n_val=1, n_test=1, n_backgrounds=2)
    dataset.setup()
    assert dataset.pixels is not None
    corner_free = dataset.factor("location") == len(dataset.corners) - 1
    first = dataset.pixels.numpy()[:, :, 0, 0]  # no digit covers it there
    red = first[corner_free & (dataset.factor("background") == 0)]
    assert (red[:, 1:] == 0).all()
    assert len(np.unique(red[:, 0])) > 10
    assert (first[corner_free & (dataset.factor("background") == 1), 1] > 0).all()


def test_factors_are_uniform_and_independent() -> None:
    dataset = DigitScenes(n_train=8000, n_val=1, n_test=1)
    dataset.setup()
    factors = dataset.factors[:8000]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        table = np.zeros((dataset.factor_sizes[i], dataset.factor_sizes[j]))
        np.add.at(table, (factors[:, i], factors[:, j]), 1)
        expected = 8000 / table.size
        chi_square = ((table - expected) ** 2 / expected).sum()
        assert chi_square < table.size + 4 * np.sqrt(2 * table.size)  # 4 standard deviations


def test_same_seed_same_images() -> None:
    datasets = [DigitScenes(n_train=30, n_val=9, n_test=9, seed=seed) for seed in (4, 4, 5)]
    for dataset in datasets:
        dataset.setup()
    one, again, other = (
        dataset.pixels.numpy() for dataset in datasets if dataset.pixels is not None
    )
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(datasets[0].factors, datasets[1].factors)
    assert (one != other).any()


def test_a_split_does_not_depend_on_the_size_of_another() -> None:
    small, large = (DigitScenes(n_train=n, n_val=5, n_test=20) for n in (10, 60))
    small.setup()
    large.setup()
    assert small.pixels is not None
    assert large.pixels is not None
    assert (small.pixels[small.rows("test")] == large.pixels[large.rows("test")]).all()


def test_setup_twice_draws_once(scenes: DigitScenes) -> None:
    scenes.setup()
    pixels = scenes.pixels
    scenes.setup()
    assert scenes.pixels is pixels


def test_draw_of_class_is_uniform_over_the_pool() -> None:
    classes = np.array([0, 1, 0, 1, 1, 0, 2])
    pool = np.array([2, 4, 0, 3, 6])
    drawn = _draw_of_class(np.repeat([0, 1, 2], 3000), classes, pool, np.random.default_rng(0))
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0, 2, 3, 4, 6]
    assert counts == pytest.approx([1500, 1500, 1500, 1500, 3000], rel=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("image_size", 20), ("n_locations", 5), ("n_backgrounds", 1), ("n_val", 0)],
)
def test_bad_arguments_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        DigitScenes(**{name: value})  # type: ignore[arg-type]
