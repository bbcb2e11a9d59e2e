from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.cars3d import Cars3D
from tests.data.written_factorials import car_file, car_images, write_cars3d


def _set_up(root: Path, **arguments: object) -> Cars3D:
    dataset = Cars3D(root, cache_dir=root / "cache", **arguments)  # type: ignore[arg-type]
    dataset.setup()
    return dataset


@pytest.mark.parametrize("packed", [True, False])
def test_ids_follow_the_names_of_the_cars(tmp_path: Path, packed: bool) -> None:
    dataset = _set_up(write_cars3d(tmp_path, packed=packed), image_size=128)
    assert dataset.factor_sizes == (3, 24, 4)
    assert len(dataset) == 288
    assert np.bincount(dataset.splits).tolist() == [205, 11, 72]
    for car, azimuth, elevation in ((1, 0, 0), (3, 23, 1), (12, 5, 3)):
        row = (1, 3, 12).index(car) * 96 + azimuth * 4 + elevation
        assert dataset.factors[row].tolist() == [row // 96, azimuth, elevation]
        image = dataset.images(torch.tensor([row]))[0].permute(1, 2, 0)
        np.testing.assert_array_equal(image, car_images(car)[..., azimuth, elevation])


def test_images_are_resized(tmp_path: Path) -> None:
    dataset = _set_up(write_cars3d(tmp_path), image_size=8, n_train=50)
    assert dataset.image_shape == (3, 8, 8)
    row = int(np.flatnonzero(dataset.ids < 96)[0])
    tiles = car_images(1).reshape(128, 128, 3, 96)[8::16, 8::16, :, dataset.ids[row]]
    image = dataset.images(torch.tensor([row]))[0].permute(1, 2, 0).numpy()
    # Antialiasing looks half a tile beyond a tile.
    assert np.corrcoef(image.ravel(), tiles.ravel())[0, 1] > 0.9


def test_bad_image_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size is 0"):
        Cars3D(tmp_path, image_size=0)


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds neither data/cars nor nips2015.*: download http"):
        _set_up(tmp_path)
    (tmp_path / "data" / "cars").mkdir(parents=True)
    with pytest.raises(UserError, match=r"data/cars is without any car_\*_mesh\.mat: download"):
        _set_up(tmp_path)


def test_car_that_is_listed_but_missing_is_named(tmp_path: Path) -> None:
    root = write_cars3d(tmp_path, packed=False)
    (root / "data/cars/car_003_mesh.mat").unlink()
    with pytest.raises(UserError, match=r"cars is without car_003_mesh\.mat, which its list"):
        _set_up(root)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 0.9999])
def test_truncated_archive_is_named(tmp_path: Path, share: float) -> None:
    path = write_cars3d(tmp_path) / "nips2015-analogy-data.tar.gz"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"nips2015-analogy-data\.tar\.gz cannot be read as") as got:
        _set_up(tmp_path)
    assert "\n" not in str(got.value)


def test_archive_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "nips2015-analogy-data.tar.gz").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"\.tar\.gz cannot be read as \.tar\.gz"):
        _set_up(tmp_path)


def test_damaged_cars_are_named(tmp_path: Path) -> None:
    root = write_cars3d(tmp_path, packed=False)
    path = root / "data/cars/car_003_mesh.mat"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    damaged = [whole[:n] for n in (0, 3, 60, 128, 150, 1000, len(whole) // 2)]
    for data in [*damaged, bytes(flipped), b"<html>404</html>" * 99]:
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"car_003_mesh\.mat is not an original") as caught:
            _set_up(root)
        assert "\n" not in str(caught.value)


def test_car_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    root = write_cars3d(tmp_path, packed=False)
    path = root / "data/cars/car_003_mesh.mat"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"car_003_mesh\.mat cannot be read \(Is a directory\)"):
        _set_up(root)


def test_cars_of_another_layout_are_named(tmp_path: Path) -> None:
    root = write_cars3d(tmp_path, packed=False)
    path = root / "data/cars/car_003_mesh.mat"
    path.write_bytes(car_file(car_images(3)[:64]))
    with pytest.raises(UserError, match=r"`im` is uint8 of shape \(64, 128, 3, 24, 4\); it should"):
        _set_up(root)
    savemat(path, {"mask": np.zeros(3)})
    with pytest.raises(UserError, match="`im` is missing"):
        _set_up(root)
