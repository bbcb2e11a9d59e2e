"""Images of one split that look nearly the same as one of another: a source that straddles them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from torch import Tensor
from torch.nn.functional import interpolate

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.data.factor_dataset import FactorDataset, as_rows

_SIDE = 32
"""Height and width that images are looked at in [pixels]."""
_LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue, as what makes pictures grey has them (ITU-R BT.601)."""
_BITS = 8
"""Frequencies of each axis that the hash is of."""
_DISTANCE = 10
"""Bits of 64 in which hashes may differ, for a second look at the pixels."""
_CORRELATION = 0.95
"""Of the grey pixels, from which on images are told."""
_BLOCK = 512
_PAIRS = 1_000_000_000
"""Most pairs that are compared, in some ten seconds; of more, images held out are drawn."""
_HELD_OUT = (SPLITS.index("test"), SPLITS.index("val"))


class NearDuplicates(NamedTuple):
    """What was found.

    Args:
        rows: Rows of images held out and of the image of another split that each is most like,
            ascending, int64, shape (n, 2).
        compared: Number of pairs that were compared.
        pairs: Number of pairs of images of different splits that there are.
    """

    rows: NDArray[np.int64]
    compared: int
    pairs: int


def find_near_duplicates(
    dataset: FactorDataset, seed: int = 0, progress: Callable[[int], object] = lambda n: None
) -> NearDuplicates:
    """Compare images of val and test with those of other splits.

    Two images are told if the signs of their low frequencies (a perceptual hash, 64 bits) differ
    in at most 10, and their grey pixels, brought to 32 x 32, correlate by .95 or more: what was
    saved anew, resized, brightened or made grey is found, neighbours in a video or on a turntable,
    what was turned by 3 degrees in two of three cases, and hardly what was cropped. Thresholds
    were looked for on photographs of clothing, signs, faces and objects, of which up to 1 in
    50,000 pairs of different ones are told.

    Args:
        dataset: A data set that is set up.
        seed: Of the images held out that are drawn where there are too many pairs.
        progress: Called with the number of images looked at after each block.

    Returns:
        The images, and how many pairs were compared.

    Example:
        >>> from detaux_pl.data.datasets.digit_scenes import DigitScenes
        >>> scenes = DigitScenes(n_train=20, n_val=10, n_test=10)
        >>> scenes.setup()
        >>> find_near_duplicates(scenes)[1:]
        (500, 500)
    """
    signs, pixels = _looks(dataset, progress)
    splits = dataset.splits
    # Each pair of splits once: test with all others, val with what is trained on.
    sides = [
        (np.flatnonzero(splits == own), np.flatnonzero(~np.isin(splits, _HELD_OUT[: k + 1])))
        for k, own in enumerate(_HELD_OUT)
    ]
    pairs = sum(len(own) * len(others) for own, others in sides)
    share = min(1.0, _PAIRS / max(pairs, 1))
    rng = np.random.default_rng(seed)
    found: list[NDArray[np.int64]] = []
    compared = 0
    for own, others in sides:
        asked = np.sort(rng.permutation(own)[: int(np.ceil(share * len(own)))])
        compared += len(asked) * len(others)
        if len(others):
            found += [
                _alike(signs, pixels, asked[start : start + _BLOCK], others)
                for start in range(0, len(asked), _BLOCK)
            ]
    rows = np.concatenate([np.empty((0, 2), dtype=np.int64), *found])
    return NearDuplicates(rows[np.argsort(rows[:, 0], kind="stable")], compared, pairs)


def _looks(
    dataset: FactorDataset, progress: Callable[[int], object]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the hash of each image as -1 and 1, shape (N, 64), and its pixels, shape (N, 1024)."""
    signs = np.empty((len(dataset), _BITS**2), dtype=np.float32)
    pixels = np.empty((len(dataset), _SIDE**2), dtype=np.uint8)
    for start in range(0, len(dataset), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(dataset)))
        grey = _small(dataset.images(as_rows(rows)))
        low = dctn(grey, axes=(1, 2), norm="ortho")[:, :_BITS, :_BITS].reshape(len(rows), -1)
        # The first one is the brightness, which would shift the median.
        above = low > np.median(low[:, 1:], axis=1, keepdims=True)
        signs[rows] = np.where(above, 1, -1)
        pixels[rows] = grey.round().reshape(len(rows), -1)
        progress(len(rows))
    return signs, pixels


def _small(images: Tensor) -> NDArray[np.float64]:
    """Bring images, uint8, shape (n, C, H, W), to grey ones, shape (n, 32, 32)."""
    n_channels = images.shape[1]
    weights = torch.tensor(_LUMA) if n_channels == 3 else torch.full((n_channels,), 1 / n_channels)
    grey = (images.to(torch.float32) * weights[:, None, None]).sum(dim=1, keepdim=True)
    small = interpolate(grey, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
    return small[:, 0].double().numpy()


def _alike(
    signs: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    asked: NDArray[np.int64],
    others: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the rows asked for that are like another, and the one each is most like."""
    nearest = np.full(len(asked), -1)
    best = np.full(len(asked), _CORRELATION, dtype=np.float32)
    for start in range(0, len(others), 64 * _BLOCK):
        block = others[start : start + 64 * _BLOCK]
        # Signs that differ count -1: of 64 bits, d differ where the product is 64 - 2 d.
        left, right = np.nonzero(signs[asked] @ signs[block].T >= _BITS**2 - 2 * _DISTANCE)
        for first in range(0, len(left), 8 * _BLOCK):
            i, j = (each[first : first + 8 * _BLOCK] for each in (left, right))
            alike = _correlation(pixels[asked[i]], pixels[block[j]])
            order = np.argsort(alike, kind="stable")
            i, j, alike = i[order], block[j[order]], alike[order]
            nearer = alike >= best[i]
            # The last one that is written to a place stays: the most alike.
            nearest[i[nearer]] = j[nearer]
            best[i[nearer]] = alike[nearer]
    some = nearest >= 0
    return np.stack([asked[some], nearest[some]], axis=1).astype(np.int64)


def _correlation(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return Pearson's correlation of each row, shape (n,); 0 of one that is all alike."""
    x, y = (each - each.mean(axis=1, keepdims=True, dtype=np.float32) for each in (left, right))
    product = np.einsum("nd,nd->n", x, y)
    scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray(product / np.maximum(scale, 1e-6), dtype=np.float32)
