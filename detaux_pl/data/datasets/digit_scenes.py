"""Real handwritten digits on coloured textures: the data set that needs no file."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from detaux_pl.artifacts.codes import LABELLED
from detaux_pl.data.correlation import check_correlation, tie
from detaux_pl.data.factor_dataset import FactorDataset

_SHARES = (0.6, 0.2, 0.2)
"""Shares of the handwritten digits that train, val and test may draw from."""
_MOST = 10_000_000
"""Most images of a split: all are in memory."""


class DigitScenes(FactorDataset):
    """Handwritten digits at one of several locations on one of 10 background classes.

    The factor structure of MNIST/STL-10 (Burns et al., poster: digit, background, location), made
    from the 1,797 handwritten digits that scikit-learn ships. A digit fills half the height and
    width of the canvas and is composed by per-pixel maximum; locations lie in two rows, and
    neighbouring columns overlap; two locations are one above the other. A background class is a hue
    and an orientation of a grating whose phase, period and brightness differ from image to image.
    All three factors are drawn independently and uniformly, from `(seed, split)`, unless
    `correlation` ties the location to the digit. A handwritten digit belongs to one split, so that
    held-out digits never appear in training.

    Args:
        principal: `digit`, `background` or `location`.
        image_size: Height and width: 16, 32 or 64.
        n_train: Number of training images.
        n_val: Number of validation images.
        n_test: Number of test images.
        n_locations: 2, 4, 6 or 8 (two rows).
        n_backgrounds: 2 to 10.
        seed: Seed of the drawing.
        correlation: Share of the training and validation images whose location is that of the
            digit (its number modulo `n_locations`), a shortcut; test images have none.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> scenes = DigitScenes(n_train=100, n_val=10, n_test=10)
        >>> scenes.setup()
        >>> scenes.images(torch.tensor([0, 1])).shape, scenes.factors.shape
        (torch.Size([2, 3, 16, 16]), (120, 3))
    """

    factor_names = ("digit", "background", "location")

    def __init__(
        self,
        principal: str = "digit",
        image_size: int = 16,
        n_train: int = 1200,
        n_val: int = 400,
        n_test: int = 2000,
        n_locations: int = 8,
        n_backgrounds: int = 10,
        seed: int = 0,
        correlation: float = 0.0,
    ) -> None:
        super().__init__(principal)
        check_correlation("correlation", correlation)
        if image_size not in (16, 32, 64):
            raise ValueError(f"image_size is {image_size}: DigitScenes has 16, 32 or 64.")
        if n_locations not in (2, 4, 6, 8):
            raise ValueError(f"n_locations is {n_locations}: DigitScenes has 2, 4, 6 or 8.")
        if not 2 <= n_backgrounds <= 10:
            raise ValueError(f"n_backgrounds is {n_backgrounds}: DigitScenes has 2 to 10.")
        for name, count in zip(LABELLED, (n_train, n_val, n_test), strict=True):
            if not 1 <= count <= _MOST:
                raise ValueError(f"n_{name} is {count}: give 1 to {_MOST:,} images.")
        self.image_size = image_size
        self.counts = (n_train, n_val, n_test)
        self.factor_sizes = (10, n_backgrounds, n_locations)
        self.image_shape = (3, image_size, image_size)
        self.seed = seed
        self.correlation = correlation

    def setup(self) -> None:
        """Draw the factors and compose all images."""
        if self.pixels is not None:
            return
        digits, classes = load_digits(return_X_y=True)
        glyphs = _resize(digits.reshape(-1, 8, 8) / 16.0, self.image_size // 2)
        pools = _split_by_class(classes, self.seed)
        factors, images = [], []
        for split, count in enumerate(self.counts):
            rng = np.random.default_rng([self.seed, split])
            drawn = np.stack([rng.integers(0, size, count) for size in self.factor_sizes], axis=1)
            if self.correlation and LABELLED[split] != "test":
                tied = np.random.default_rng([self.seed, split, 1])  # all else stays as it is
                location, n = drawn[:, 2], self.factor_sizes[2]
                drawn[:, 2] = tie(drawn[:, 0], location, n, self.correlation, tied)
            glyph = _draw_of_class(drawn[:, 0], classes, pools[split], rng)
            scenes = _textures(drawn[:, 1], self.image_size, rng)
            _paste(scenes, glyphs[glyph], self.corners[drawn[:, 2]])
            factors.append(drawn)
            images.append(np.rint(scenes * 255.0).astype(np.uint8))
        self.ids = np.arange(sum(self.counts))
        self.splits = np.repeat(np.arange(len(LABELLED), dtype=np.int8), self.counts)
        self.factors = np.concatenate(factors)
        self.pixels = torch.from_numpy(np.concatenate(images))

    @property
    def corners(self) -> NDArray[np.int64]:
        """Top-left corner (row, column) of each location, shape (n_locations, 2)."""
        columns = self.factor_sizes[2] // 2
        size = self.image_size // 2
        left = [c * size // (columns - 1) for c in range(columns)] if columns > 1 else [size // 2]
        return np.array([(r * size, column) for r in range(2) for column in left])


def _split_by_class(classes: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Share the handwritten digits of every class out to the splits."""
    rng = np.random.default_rng([seed, len(LABELLED)])
    pools: list[list[NDArray[np.int64]]] = [[] for _ in _SHARES]
    for value in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == value))
        cuts = np.rint(np.cumsum(_SHARES)[:-1] * len(members)).astype(int)
        for pool, part in zip(pools, np.split(members, cuts), strict=True):
            pool.append(part)
    return [np.concatenate(pool) for pool in pools]


def _draw_of_class(
    wanted: NDArray[np.int64],
    classes: NDArray[np.int64],
    pool: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw for each wanted class one member of the pool, uniformly."""
    pool = pool[np.argsort(classes[pool], kind="stable")]
    start = np.searchsorted(classes[pool], np.arange(11))
    low, high = start[wanted], start[wanted + 1]
    return pool[low + (rng.random(len(wanted)) * (high - low)).astype(np.int64)]


def _resize(images: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    tensor = torch.from_numpy(images).float().unsqueeze(1)
    scaled = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear")
    return scaled.squeeze(1).numpy()


def _textures(
    classes: NDArray[np.int64], size: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gratings of the classes' hue and orientation, shape (n, 3, size, size), at most 0.6."""
    n = len(classes)
    angle = (np.pi / 10 * classes)[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, n)[:, None, None]
    periods = rng.uniform(1.5, 2.5, n)[:, None, None]
    brightness = rng.uniform(0.4, 0.6, n)
    y, x = np.mgrid[:size, :size] / size
    wave = np.sin(2 * np.pi * periods * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    # Hue to RGB at full saturation: each channel is a clipped triangle wave over the circle.
    turn = classes[:, None] / 10 + np.array([0.0, 2 / 3, 1 / 3])
    colour = np.clip(np.abs((turn % 1.0) * 6 - 3) - 1, 0, 1) * brightness[:, None]
    scenes = colour[:, :, None, None] * (0.7 + 0.3 * wave)[:, None]
    single: NDArray[np.float32] = scenes.astype(np.float32)
    return single


def _paste(
    scenes: NDArray[np.float32], glyphs: NDArray[np.float32], corners: NDArray[np.int64]
) -> None:
    """Compose each glyph into its scene by per-pixel maximum, in place."""
    size = glyphs.shape[-1]
    for row, column in np.unique(corners, axis=0):
        here = np.flatnonzero((corners == (row, column)).all(axis=1))
        window = np.s_[here, :, row : row + size, column : column + size]
        scenes[window] = np.maximum(scenes[window], glyphs[here, None])
