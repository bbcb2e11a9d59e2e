from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.shapes3d import Shapes3D

_N = 480_000
_WRITTEN = (0, 1, 77, 9_999, 10_000, 250_000, 479_999)
"""Rows that the file holds; the others are black and take no room in it."""


def _labels() -> np.ndarray:  # type: ignore[type-arg]
    """Labels as the original has them, written down another way than the reader expects them."""
    rows = np.arange(_N)
    columns = (
        rows // 48_000 / 10,
        rows // 4_800 % 10 / 10,
        rows // 480 % 10 / 10,
        0.75 + rows // 60 % 8 / 14,
        rows // 15 % 4,
        -30 + rows % 15 * 30 / 7,
    )
    return np.stack(columns, axis=1)


def _image(row: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(row).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def _write(path: Path, dtype: str = "uint8") -> Path:
    with h5py.File(path, "w") as file:
        images = file.create_dataset(
            "images", (_N, 64, 64, 3), dtype, chunks=(50, 64, 64, 3), compression="gzip"
        )
        for row in _WRITTEN:
            images[row] = _image(row) if dtype == "uint8" else _image(row) / 255
        file["labels"] = _labels()
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("shapes") / "3dshapes.h5")


@pytest.fixture(scope="module")
def dataset(path: Path) -> Shapes3D:
    dataset = Shapes3D(path)
    dataset.setup()
    return dataset


def test_rows_in_any_order_with_repeats(dataset: Shapes3D) -> None:
    rows = [479_999, 0, 77, 0, 10_000, 9_999]
    images = dataset.images(torch.tensor(rows))
    assert images.dtype == torch.uint8
    assert images.shape == (6, 3, 64, 64)
    assert images.is_contiguous()
    expected = np.stack([_image(row) for row in rows]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images.numpy(), expected)
    assert dataset.images(torch.tensor([5])).max() == 0
    assert dataset.pixels is None


def test_layout_is_the_one_of_the_factorial(dataset: Shapes3D) -> None:
    assert len(dataset) == _N
    assert np.bincount(dataset.splits).tolist() == [342_000, 18_000, 120_000]
    assert dataset.n_classes == 8


def test_subset_reads_the_rows_of_its_ids(path: Path) -> None:
    dataset = Shapes3D(path, split="random", n_train=9, n_val=9, n_test=9)
    dataset.setup()
    dataset.ids[[3, 20]] = (77, 250_000)  # two that are written
    images = dataset.images(torch.tensor([20, 3, 4]))
    np.testing.assert_array_equal(images[0].permute(1, 2, 0).numpy(), _image(250_000))
    np.testing.assert_array_equal(images[1].permute(1, 2, 0).numpy(), _image(77))
    assert images[2].max() == 0


def test_in_memory_holds_the_same_images(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Shapes3D(path, n_train=40, n_val=10, n_test=10, in_memory=True)
    ids = np.unique(np.concatenate([_WRITTEN, np.arange(100, 153)]))

    def assign(self: Shapes3D) -> None:
        self.ids = ids

    monkeypatch.setattr("detaux_pl.data.shapes_factorial.ShapesFactorial.setup", assign)
    dataset.setup()
    assert dataset.pixels is not None
    assert dataset.pixels.shape == (60, 3, 64, 64)
    pixels = dataset.pixels
    dataset.setup()
    assert dataset.pixels is pixels
    lazy = Shapes3D(path)
    lazy.ids = ids
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dataset.images(rows), lazy.images(rows))
    assert (dataset.images(rows).amax(dim=(1, 2, 3)) > 0).sum() == len(_WRITTEN)


def _read_first(dataset: Shapes3D) -> int:
    return int(dataset.images(torch.tensor([77])).sum())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of a process with threads
def test_forked_and_pickled_copies_read(dataset: Shapes3D) -> None:
    expected = int(_image(77).sum())
    assert _read_first(dataset) == expected
    # As torch's loader begins its workers: forked ones have no threads of OpenMP.
    one = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with multiprocessing.get_context("fork").Pool(2, **one) as pool:
        assert pool.map(_read_first, [dataset] * 2) == [expected] * 2
    assert _read_first(pickle.loads(pickle.dumps(dataset))) == expected


def test_floats_become_levels(tmp_path: Path) -> None:
    path = _write(tmp_path / "floats.h5", "float32")
    dataset = Shapes3D(path)
    dataset.setup()
    image = dataset.images(torch.tensor([77]))[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(image, _image(77))
    with h5py.File(path, "r+") as file:
        file["images"][250_000, 3, 3, 0] = np.nan
    with pytest.raises(UserError, match=r"floats\.h5 holds NaN.*first in image 250000"):
        dataset.images(torch.tensor([250_000, 77]))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3dshapes\.h5 does not exist: download https://"):
        Shapes3D(tmp_path / "3dshapes.h5").setup()


def test_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "3dshapes.h5"
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"3dshapes\.h5 cannot be read as HDF5"):
        Shapes3D(path).setup()


def test_truncated_file_is_named(path: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.h5"
    part.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"part\.h5 cannot be read as HDF5.*truncated"):
        Shapes3D(part).setup()


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "message"),
    [
        ("labels", None, "", "`labels` is missing; it should be float64 of shape"),
        ("images", None, "", "`images` is missing"),
        ("images", (100, 64, 64, 3), "uint8", r"`images` is uint8 of shape \(100, 64, 64, 3\)"),
        ("images", (_N, 64, 64, 3), "int32", "`images` is int32"),
        ("labels", (_N, 5), "float64", r"`labels` is float64 of shape \(480000, 5\)"),
        ("labels", (_N, 6), "float64", "`labels` leave the order of the factors in row 0"),
    ],
)
def test_other_layout_is_named(
    tmp_path: Path, name: str, shape: tuple[int, ...] | None, dtype: str, message: str
) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        layout = {"images": ((_N, 64, 64, 3), "uint8"), "labels": ((_N, 6), "float64")}
        for key, (usual, kind) in layout.items():
            if key != name:
                file.create_dataset(key, usual, kind, chunks=True)
            elif shape is not None:
                file.create_dataset(key, shape, dtype, chunks=True)
    with pytest.raises(UserError, match=rf"other\.h5 is not the original.*{message}"):
        Shapes3D(path).setup()


def test_labels_out_of_order_are_named(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "swapped.h5"
    other.write_bytes(path.read_bytes())
    with h5py.File(other, "r+") as file:
        file["labels"][[100, 101]] = file["labels"][[100, 101]][::-1]
    with pytest.raises(UserError, match="order of the factors in row 100"):
        Shapes3D(other).setup()
