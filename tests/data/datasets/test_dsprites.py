from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.dsprites import DSprites
from tests.data.written_factorials import write_dsprites


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def _set_up(path: Path, cache: Path, **arguments: object) -> DSprites:
    dataset = DSprites(path, cache_dir=cache, **arguments)  # type: ignore[arg-type]
    dataset.setup()
    return dataset


def test_images_and_factors_are_those_of_the_file(tmp_path: Path, cache: Path) -> None:
    path, images = write_dsprites(tmp_path)
    dataset = _set_up(path, cache)
    assert dataset.factor_sizes == (3, 2, 4, 3, 2)
    assert dataset.n_classes == 3
    assert dataset.ids.tolist() == list(range(144))
    assert dataset.factors[:7].tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
        [0, 0, 0, 2, 0],
        [0, 0, 0, 2, 1],
        [0, 0, 1, 0, 0],
    ]
    assert np.bincount(dataset.splits).tolist() == [103, 5, 36]
    assert dataset.pixels is not None
    assert dataset.pixels.dtype == torch.uint8
    np.testing.assert_array_equal(dataset.pixels[:, 0], images * 255)
    np.testing.assert_array_equal(
        dataset.images(torch.tensor([5, 0, 5]))[:, 0], images[[5, 0, 5]] * 255
    )


def test_sizes_are_described_before_any_image_is_read(tmp_path: Path, cache: Path) -> None:
    dataset = DSprites(write_dsprites(tmp_path)[0], principal="x", cache_dir=cache)
    dataset.describe()
    assert (dataset.n_classes, dataset.n_images()) == (3, 144)
    assert not cache.exists()


def test_subsets_share_one_cache(tmp_path: Path, cache: Path) -> None:
    path, images = write_dsprites(tmp_path)
    whole = _set_up(path, cache)
    part = _set_up(path, cache, n_train=10, n_val=2, n_test=3, seed=0)
    assert part.pixels is None
    assert len(list(cache.glob("dsprites-*/*/pixels.npy"))) == 1
    np.testing.assert_array_equal(part.images(torch.arange(15))[:, 0], images[part.ids] * 255)
    np.testing.assert_array_equal(part.splits, whole.splits[part.ids])


@pytest.mark.parametrize("numbers", [{}, {"n_train": 10}])
def test_pickled_copy_maps_the_cache_itself(
    tmp_path: Path, cache: Path, numbers: dict[str, int]
) -> None:
    dataset = _set_up(write_dsprites(tmp_path)[0], cache, **numbers)
    data = pickle.dumps(dataset)
    assert len(data) < 30_000  # the images are 590 kB
    copy = pickle.loads(data)
    rows = torch.tensor([3, 0])
    assert torch.equal(copy.images(rows), dataset.images(rows))
    assert (copy.pixels is None) == (dataset.pixels is None)


def test_images_need_setup(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="DSprites has no images yet"):
        DSprites(tmp_path).images(torch.tensor([0]))


def test_numbers_are_checked_against_the_file(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match="n_test is 37: give 1 to 36, or null for all"):
        _set_up(write_dsprites(tmp_path)[0], cache, n_test=37)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.npz does not exist: download https://"):
        DSprites(tmp_path / "absent.npz").setup()


def _classes(*sizes: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.indices(sizes).reshape(len(sizes), -1).T


_IMAGES = np.zeros((24, 64, 64), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"imgs": _IMAGES}, r"no array 'latents_classes'"),
        ({"latents_classes": _classes(1, 2, 3, 4, 1, 1)}, r"no array 'imgs'"),
        (
            {"imgs": _IMAGES, "latents_classes": _classes(2, 3, 4)},
            r"`latents_classes` is int64 of shape \(24, 3\); it should be int64",
        ),
        (
            {"imgs": _IMAGES[:, :32], "latents_classes": _classes(1, 2, 3, 4, 1, 1)},
            r"`imgs` is uint8 of shape \(24, 32, 64\); it should be uint8 of shape \(24, 64, 64\)",
        ),
        (
            {"imgs": _IMAGES, "latents_classes": _classes(1, 2, 3, 4, 1, 1)[::-1]},
            "is not every combination once, in order",
        ),
        (
            {"imgs": _IMAGES, "latents_classes": _classes(2, 3, 4, 1, 1, 1)},
            "is not every combination once, in order",
        ),
        (
            {"imgs": _IMAGES, "latents_classes": _classes(1, 2, 3, 4, 1, 1) * 10**9},
            "is not every combination once, in order",
        ),
        (
            {"imgs": _IMAGES, "latents_classes": _classes(1, 2, 3, 4, 1, 1) - 5},
            "is not every combination once, in order",
        ),
        (
            {"imgs": _IMAGES + np.uint8(9), "latents_classes": _classes(1, 2, 3, 4, 1, 1)},
            "`imgs` has pixels up to 9; they should be 0 and 1",
        ),
    ],
)
def test_other_layout_is_named(
    tmp_path: Path,
    cache: Path,
    arrays: dict[str, np.ndarray],
    message: str,  # type: ignore[type-arg]
) -> None:
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(UserError, match=rf"other\.npz .*{message}") as caught:
        _set_up(tmp_path / "other.npz", cache)
    assert "\n" not in str(caught.value)


def test_damaged_file_is_named(tmp_path: Path, cache: Path) -> None:
    path, _ = write_dsprites(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(UserError, match=r"64x64\.npz cannot be read as \.npz"):
        _set_up(path, cache)
    for name in ("imgs", "latents_classes"):
        with ZipFile(BytesIO(data)) as archive:
            checksum = archive.getinfo(f"{name}.npy").CRC.to_bytes(4, "little")
        path.write_bytes(data.replace(checksum, b"!!!!"))
        with pytest.raises(UserError, match=r"64x64\.npz.* cannot be read .*Bad CRC"):
            _set_up(path, cache)
