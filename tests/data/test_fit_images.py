"""Images fitted by tensors are those that Pillow fits."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from detaux_pl.data.fit_images import FitImages
from detaux_pl.data.read_image import Fit, read_image

FITS = get_args(Fit)


def fitted(pixels: np.ndarray, size: tuple[int, int], fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """What tensors and Pillow make of an image, shape (H, W, C)."""
    channels = pixels.shape[2]
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    found = FitImages(size, fit)(torch.from_numpy(pixels)[None])[0].numpy()
    return found.astype(int), read_image(picture, size, channels, fit).astype(int)


@pytest.mark.parametrize("fit", FITS)
def test_any_size_is_fitted_as_pillow_does(fit: Fit):
    rng = np.random.default_rng(0)
    gaps = []
    for k in range(150):
        size = tuple(map(int, rng.integers(8, 40, 2)))
        height, width = map(int, rng.integers(1, 200, 2))
        pixels = rng.integers(0, 256, (height, width, (1, 3)[k % 2]), dtype=np.uint8)
        found, expected = fitted(pixels, size, fit)
        gaps.append(np.abs(found - expected))
        assert gaps[-1].max() <= 2, (size, height, width)
        assert (gaps[-1] > 1).mean() < 0.005, (size, height, width)
    # In noise, the hardest of pictures; Pillow 13 goes another way with tall images.
    assert np.mean([(gap > 0).mean() for gap in gaps]) < 0.08


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (37, 61), (224, 192)])
def test_an_image_of_the_wanted_size_stays_as_it_is(fit: Fit, size: tuple[int, int]):
    pixels = np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    found = FitImages(size, fit)(torch.from_numpy(pixels))
    np.testing.assert_array_equal(found.numpy(), pixels.transpose(0, 3, 1, 2))


def test_borders_of_pad_are_black_and_as_wide_as_pillows():
    white = np.full((90, 30, 1), 255, dtype=np.uint8)
    for size in ((20, 20), (21, 20), (20, 33), (9, 40)):
        found, expected = fitted(white, size, "pad")
        np.testing.assert_array_equal(found, expected)
        assert found.min() == 0
        assert found.max() == 255


def test_a_batch_is_fitted_image_by_image():
    pixels = torch.randint(256, (5, 31, 17, 3), dtype=torch.uint8)
    fit = FitImages((12, 12))
    alone = torch.cat([fit(image[None]) for image in pixels])
    assert (fit(pixels).int() - alone.int()).abs().max() == 0
