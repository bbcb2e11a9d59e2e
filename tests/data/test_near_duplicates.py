"""Images that look nearly the same, in two splits."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from detaux_pl.data import near_duplicates
from detaux_pl.data.near_duplicates import find_near_duplicates


def _saved(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file)


_CHANGES: list[Callable[[Image.Image], Image.Image]] = [
    _saved,
    lambda image: image.resize((24, 24)).resize(image.size),
    lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    lambda image: image.convert("L").convert("RGB"),
    lambda image: image.rotate(1, Image.Resampling.BILINEAR),
]


class _Images:
    """Images with the detail of photographs; of a data set, what the comparison asks for."""

    def __init__(self, n: int, n_planted: int, size: int = 48) -> None:
        rng = np.random.default_rng(0)
        layers = [
            np.stack(
                [
                    np.asarray(
                        Image.fromarray(rng.integers(0, 256, (k, k, 3), dtype=np.uint8)).resize(
                            (size, size), Image.Resampling.BICUBIC
                        )
                    )
                    for _ in range(n)
                ]
            )
            for k in (3, 6, 16)
        ]
        pixels = np.average(layers, axis=0, weights=(4, 2, 1)).astype(np.uint8)
        self.splits = np.repeat([0, 1, 2], [n - 2 * (n // 6), n // 6, n // 6]).astype(np.int8)
        held = np.flatnonzero(self.splits)
        self.copies = rng.choice(held, n_planted, replace=False)
        originals = rng.choice(np.flatnonzero(self.splits == 0), n_planted, replace=False)
        for k, (copy, original) in enumerate(zip(self.copies, originals, strict=True)):
            image = Image.fromarray(pixels[original])
            pixels[copy] = np.asarray(_CHANGES[k % len(_CHANGES)](image).convert("RGB"))
        self.planted = sorted(zip(self.copies.tolist(), originals.tolist(), strict=True))
        self._pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.splits)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        return self._pixels[rows]


def test_all_planted_ones_of_2000_images_are_found_and_no_other() -> None:
    images = _Images(2_000, 60)
    found = find_near_duplicates(images)  # type: ignore[arg-type]
    assert found.rows.tolist() == [list(pair) for pair in images.planted]
    assert found.compared == found.pairs == 333 * (2_000 - 333) + 333 * (2_000 - 666)


def test_of_too_many_pairs_images_held_out_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    images = _Images(120, 12)
    monkeypatch.setattr(near_duplicates, "_PAIRS", 1_800)
    found = find_near_duplicates(images)  # type: ignore[arg-type]
    assert found.pairs == 20 * 100 + 20 * 80
    assert found.compared == found.pairs / 2
    assert 0 < len(found.rows) < 12
    assert {tuple(pair) for pair in found.rows.tolist()} <= set(images.planted)


def test_images_of_one_level_and_splits_without_images() -> None:
    images = _Images(12, 0)
    images._pixels = torch.full_like(images._pixels, 7)
    assert not len(find_near_duplicates(images).rows)  # type: ignore[arg-type]
    images.splits[:] = 0
    assert find_near_duplicates(images)[1:] == (0, 0)  # type: ignore[arg-type]


def test_most_alike_of_several() -> None:
    images = _Images(60, 1)
    ((copy, original),) = images.planted
    noisy = images._pixels[original].float() + 8 * torch.randn(3, 48, 48)
    another = next(row for row in range(40) if row != original)
    images._pixels[another] = noisy.clamp(0, 255).to(torch.uint8)
    assert find_near_duplicates(images).rows.tolist() == [[copy, original]]  # type: ignore[arg-type]
    images._pixels[another] = images._pixels[copy]
    assert find_near_duplicates(images).rows.tolist() == [[copy, another]]  # type: ignore[arg-type]
