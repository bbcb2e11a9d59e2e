from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2.functional import resize

from detaux_pl.data.cached_arrays import CachedArrays, resize_pixels
from detaux_pl.data.pixel_cache import PixelWriter

_N = 2500


class _Arrays(CachedArrays):
    """Images of one grey level each, the row number modulo 251, in blocks of two shapes."""

    factor_names = ("label",)
    factor_sizes = (2,)
    image_shape = (1, 4, 4)

    def __init__(self, path: Path, killed_at: int | None = None) -> None:
        super().__init__("label", path.parent / "cache")
        self.path = path
        self.killed_at = killed_at
        self.read: list[int] = []
        self.resized: list[int] = []

    def setup(self) -> None:
        self.ids = np.arange(_N)
        self.splits = np.zeros(_N, dtype=np.int8)
        self.factors = self.ids[:, None] % 2
        super().setup()

    def n_images(self) -> int:
        return _N

    def files(self) -> Sequence[Path]:
        return [self.path]

    def read_blocks(self) -> Iterator[NDArray[np.uint8]]:
        levels = (np.arange(_N) % 251).astype(np.uint8)
        for start, stop, size in ((0, 1500, 8), (1500, 1501, 4), (1501, _N, 6)):
            if self.killed_at is not None and start >= self.killed_at:
                raise KeyboardInterrupt
            self.read.append(start)
            yield np.tile(levels[start:stop, None, None, None], (1, 1, size, size))

    def render(self, rows: NDArray[np.int64], write: PixelWriter) -> Iterator[NDArray[np.int64]]:
        for here in super().render(rows, write):
            self.resized += here.tolist()
            yield here


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(b"one")
    return path


def _check(dataset: _Arrays) -> None:
    assert dataset.pixels is not None
    expected = torch.arange(_N) % 251
    assert torch.equal(dataset.pixels, expected.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).byte())


def test_every_image_in_its_row(path: Path) -> None:
    dataset = _Arrays(path)
    dataset.setup()
    _check(dataset)
    assert dataset.resized == list(range(_N))
    again = _Arrays(path)
    again.setup()
    _check(again)
    assert not again.read


def test_resumed_after_a_kill(path: Path) -> None:
    killed = _Arrays(path, killed_at=1501)
    with pytest.raises(KeyboardInterrupt):
        killed.setup()
    assert killed.resized == list(range(1501))
    resumed = _Arrays(path)
    resumed.setup()
    assert resumed.resized == list(range(1501, _N))
    _check(resumed)


def test_any_ascending_rows(path: Path) -> None:
    dataset = _Arrays(path)
    rows = np.array([0, 749, 750, 1499, 1500, 1501, 2499])
    levels: list[int] = []

    def write(here: NDArray[np.int64], images: NDArray[np.uint8]) -> None:
        levels.extend(images[:, 0, 0, 0].tolist())

    pieces = list(CachedArrays.render(dataset, rows, write))  # type: ignore[arg-type]
    assert np.concatenate(pieces).tolist() == rows.tolist()
    assert levels == (rows % 251).tolist()


def test_other_content_is_read_anew(path: Path) -> None:
    _Arrays(path).setup()
    moved = path.with_name("moved.bin")
    path.rename(moved)
    same = _Arrays(moved)
    same.setup()
    assert not same.read
    moved.write_bytes(b"another")
    other = _Arrays(moved)
    other.setup()
    assert other.read == [0, 1500, 1501]


@pytest.mark.parametrize("size", [(64, 64), (20, 31), (7, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_torchvisions(size: tuple[int, int], channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, channels), dtype=np.uint8)
    images = images.transpose(0, 3, 1, 2)
    expected = torch.stack(
        [resize(torch.from_numpy(image.copy()), list(size), antialias=True) for image in images]
    )
    np.testing.assert_array_equal(resize_pixels(images, size), expected.numpy())


def test_images_of_the_wanted_size_stay() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 9), dtype=np.uint8)
    assert resize_pixels(images, (8, 9)) is images
