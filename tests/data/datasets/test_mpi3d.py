from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.mpi3d import MPI3D
from tests.data.written_factorials import mini_mpi3d, write_mpi3d


def test_number_of_images_tells_the_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini_mpi3d(monkeypatch)
    for name, sizes, first in (
        ("mpi3d_realistic.npz", (6, 6, 2, 3, 3, 1, 2), "cone"),
        ("mpi3d_real_complex.npz", (4, 4, 2, 3, 3, 1, 2), "coffee-cup"),
    ):
        path, _ = write_mpi3d(tmp_path, name)
        dataset = MPI3D(path)
        dataset.describe()
        assert dataset.factor_sizes == sizes
        assert dataset.n_images() == np.prod(sizes)
        assert dataset.value_names["object_shape"][0] == first
        for factor, values in dataset.value_names.items():
            assert len(values) == sizes[dataset.factor_names.index(factor)]


def test_images_and_factors_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini_mpi3d(monkeypatch)
    path, images = write_mpi3d(tmp_path, "mpi3d_real_complex.npz")
    dataset = MPI3D(path, cache_dir=tmp_path / "cache")
    dataset.setup()
    assert dataset.pixels is not None
    np.testing.assert_array_equal(dataset.pixels, images.transpose(0, 3, 1, 2))
    # 1 of 4 colours, 2 of 4 shapes, 1 of 2 sizes, 0 of 3 heights, 2 of 3 grounds, 0, 1 of 2
    row = ((((1 * 4 + 2) * 2 + 1) * 3 + 0) * 3 + 2) * 2 + 1
    assert dataset.factors[row].tolist() == [1, 2, 1, 0, 2, 0, 1]
    assert np.bincount(dataset.splits).tolist() == [410, 22, 144]
    part = MPI3D(path, n_train=20, cache_dir=tmp_path / "cache")
    part.setup()
    np.testing.assert_array_equal(
        part.images(torch.tensor([7]))[0].permute(1, 2, 0), images[part.ids[7]]
    )


def test_original_numbers_are_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", images=np.zeros((10, 64, 64, 3), np.uint8))
    np.savez(tmp_path / "names.npz", pictures=np.zeros((10, 64, 64, 3), np.uint8))
    with pytest.raises(
        UserError,
        match=r"other\.npz is not an original of MPI3D: `images` is uint8 of shape "
        r"\(10, 64, 64, 3\); it should be uint8 of shape \(1036800, 64, 64, 3\) or "
        r"\(460800, 64, 64, 3\)",
    ):
        MPI3D(tmp_path / "other.npz").setup()
    with pytest.raises(UserError, match=r"names\.npz has no array 'images': it holds pictures"):
        MPI3D(tmp_path / "names.npz").setup()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mpi3d_toy\.npz does not exist: download a variant"):
        MPI3D(tmp_path / "mpi3d_toy.npz").setup()
