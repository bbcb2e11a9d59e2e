"""Salt-and-pepper noise that depends on the sample alone, not on the batch or the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_ORDER = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


@dataclass(frozen=True)
class SaltPepper:
    """Replace some pixels of a batch by white or black ones.

    The field of a sample follows from `(seed, epoch, row)` by a counter-based hash: it is the
    same in every stage, on every device and for every number of workers or ranks. The epoch
    counts only where `redraw` is set, and only in training.

    Args:
        amount: Share of pixels that are replaced, half by white and half by black, in [0, 1];
            for mode `pixel`. Paper: 0.15.
        mode: `pixel` draws one field for all channels. The others reproduce the official code:
            `elementwise_16` replaces 8 % of the channel elements by 0.98 and 8 % by 0.02 (its
            disentanglement stage), `gaussian_71` 53.2 % by 0.98 and 17.9 % by 0.02 (its
            multi-task stage).
        redraw: Draw a new field in every training epoch.
        seed: Seed of the fields.

    Raises:
        ValueError: If `amount` is outside [0, 1].

    Example:
        >>> images, rows = torch.full((1, 3, 128, 128), 0.5), torch.tensor([7])
        >>> noisy = SaltPepper(amount=0.15)(images, rows)
        >>> round((noisy != images).float().mean().item(), 2)
        0.15
        >>> noisy.equal(SaltPepper(amount=0.15)(images, rows))  # row 7 always has this noise
        True

    References:
        Skenderi et al., Detaux, section 5 ("15 % of pixels").
    """

    amount: float = 0.15
    mode: Literal["pixel", "elementwise_16", "gaussian_71"] = "pixel"
    redraw: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.amount <= 1.0:
            raise ValueError(f"amount is {self.amount}: the share of replaced pixels is in [0, 1].")

    def __call__(self, images: Tensor, rows: Tensor, epoch: int = 0) -> Tensor:
        """Return a noisy copy of a batch.

        Args:
            images: Images in [0, 1], shape (n, C, H, W).
            rows: Row number of each image in its data set, shape (n,).
            epoch: Epoch of the training; ignored unless `redraw` is set.
        """
        n, channels, height, width = images.shape
        fields = 1 if self.mode == "pixel" else channels
        seed = self.seed + (epoch << 32 if self.redraw else 0)
        field = uniform(seed, rows, fields * height * width).view(n, fields, height, width)
        if self.mode == "pixel":
            low, high, dark, light = self.amount / 2, 1 - self.amount / 2, 0.0, 1.0
        elif self.mode == "elementwise_16":
            low, high, dark, light = 0.08, 0.92, 0.98, 0.02
        else:  # P(N(0, 1) <= .08) = .5319 and P(N(0, 1) >= .92) = .1788
            low, high, dark, light = 0.5319, 1 - 0.1788, 0.98, 0.02
        return torch.where(field < low, dark, torch.where(field >= high, light, images))


def uniform(seed: int, rows: Tensor, n: int) -> Tensor:
    """Return n uniform numbers in [0, 1) per row, shape (len(rows), n), float32.

    SplitMix64 of (seed, row, position): a pure function, equal on every device.

    References:
        Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    counter = torch.arange(n, dtype=torch.int64, device=rows.device)
    base = _mix(rows.to(torch.int64) * _ORDER + _wrap(seed))
    return (_mix(base[:, None] + (counter + 1) * _ORDER) >> 40 & 0xFFFFFF).float() / (1 << 24)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right without the sign that torch's shift of int64 would carry along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _wrap(seed: int) -> int:
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)
