from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets import synthetic_shapes3d
from detaux_pl.data.datasets.synthetic_shapes3d import SyntheticShapes3D, _enter, cast_geometry

_SIZE = 32


@pytest.fixture(scope="module")
def dataset(cache_dir: Path) -> SyntheticShapes3D:
    dataset = SyntheticShapes3D(image_size=_SIZE, cache_dir=cache_dir)
    dataset.setup()
    return dataset


@pytest.fixture(scope="module")
def geometry(dataset: SyntheticShapes3D) -> Tensor:
    """Light of floor, wall and object by scale, shape, orientation: (8, 4, 15, 3, H, W)."""
    assert dataset._geometry is not None
    return torch.from_numpy(dataset._geometry).view(8, 4, 15, 3, _SIZE, _SIZE) / 256


def _row(floor: int, wall: int, object_: int, scale: int, shape: int, orientation: int) -> int:
    place = (floor, wall, object_, scale, shape, orientation)
    return int(np.ravel_multi_index(place, SyntheticShapes3D.factor_sizes))


def test_images_are_whole_batches_of_uint8_in_any_order(dataset: SyntheticShapes3D) -> None:
    rows = torch.tensor([479_999, 0, 77, 0, 123_456])
    images = dataset.images(rows)
    assert images.shape == (5, 3, _SIZE, _SIZE)
    assert images.dtype == torch.uint8
    assert dataset.pixels is None
    for row, image in zip(rows, images, strict=True):
        assert torch.equal(dataset.images(row[None])[0], image)
    assert dataset.images(rows[:0]).shape == (0, 3, _SIZE, _SIZE)


def test_image_is_the_sum_of_coloured_parts(dataset: SyntheticShapes3D, geometry: Tensor) -> None:
    red, green, blue = torch.eye(3)
    cyan = green + blue
    # Hues 0 and 5 are red and cyan; floor red, wall cyan, object cyan.
    parts = geometry[3, 2, 10]
    light = torch.einsum("p c, p h w -> c h w", torch.stack([red, cyan, cyan]), parts)
    expected = (light * 255).to(torch.uint8)
    assert torch.equal(dataset.images(torch.tensor([_row(0, 5, 5, 3, 2, 10)]))[0], expected)


def test_blocks_compose_as_one_by_one(dataset: SyntheticShapes3D) -> None:
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 480_000, 150))
    alone = torch.cat([dataset.images(row[None]) for row in rows])
    assert torch.equal(dataset.images(rows), alone)


def test_subset_keeps_the_images_of_its_ids(dataset: SyntheticShapes3D, cache_dir: Path) -> None:
    part = SyntheticShapes3D(image_size=_SIZE, n_train=20, n_val=5, n_test=5, cache_dir=cache_dir)
    part.setup()
    expected = dataset.images(torch.from_numpy(part.ids))
    assert torch.equal(part.images(torch.arange(30)), expected)


def test_light_of_a_pixel_is_shared_out(geometry: Tensor) -> None:
    light = geometry.sum(dim=3)
    assert light.min() > 0.35
    assert light.max() < 1.0
    covered = (geometry > 0).sum(dim=3)
    assert (covered == 1).float().mean() > 0.85  # parts mix only at edges
    assert (covered >= 2).any()  # which are smooth


def test_object_stands_on_the_floor_in_the_middle_before_the_wall(geometry: Tensor) -> None:
    floor, wall, object_ = (geometry > 0).float().mean(dim=(0, 1, 2))
    assert floor[-1].min() == 1
    assert wall[0].min() == 1
    assert object_[_SIZE // 2, _SIZE // 2] == 1
    edges = torch.cat([object_[0], object_[-1], object_[:, 0], object_[:, -1]])
    assert edges.max() == 0


def test_object_grows_with_scale(geometry: Tensor) -> None:
    area = (geometry[:, :, :, 2] > 0).float().sum(dim=(-1, -2))
    assert (area.diff(dim=0) >= 0).all()
    mean = area.mean(dim=(1, 2))
    assert (mean.diff() > 0).all()
    assert mean[-1] / mean[0] == pytest.approx((1.25 / 0.75) ** 2, rel=0.25)


def test_every_geometry_differs_from_every_other(geometry: Tensor) -> None:
    assert len(torch.unique(geometry.reshape(480, -1), dim=0)) == 480


def test_turning_moves_the_room_but_not_what_is_round(geometry: Tensor) -> None:
    covered = geometry[4, :, :, 2] > 0
    for shape, turns in enumerate((True, False, False, False)):
        changed = (covered[shape, 0] ^ covered[shape, 7]).float().sum()
        assert (changed > 8) == turns, shape
    assert ((geometry[4, 2, 0, 1] > 0) ^ (geometry[4, 2, 7, 1] > 0)).any()


def test_room_is_mirrored_between_opposite_turns(geometry: Tensor) -> None:
    walls = geometry[0, 2, :, 1] > 0
    overlap = (walls == walls.flip(0, -1)).float().mean()  # shadows and edges aside
    assert overlap > 0.99


def test_colours_are_the_ten_hues(dataset: SyntheticShapes3D) -> None:
    rows = torch.tensor([_row(hue, 0, 0, 0, 0, 0) for hue in range(10)])
    corner = dataset.images(rows)[:, :, -1, 0]
    assert len(torch.unique(corner, dim=0)) == 10
    hsv_like = corner.float() / corner.amax(dim=1, keepdim=True)
    assert hsv_like[0].tolist() == [1, 0, 0]
    assert hsv_like[5].tolist() == [0, 1, 1]
    assert (hsv_like.amin(dim=1) == 0).all()  # fully saturated


@pytest.mark.parametrize("solid", ["cube", "cylinder", "sphere", "capsule"])
def test_entry_is_where_a_march_along_the_ray_first_is_inside(solid: str) -> None:
    def inside(q: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        across = np.hypot(q[0], q[1])
        if solid == "cube":
            return np.abs(q).max(axis=0) <= 0.5
        if solid == "cylinder":
            return (across <= 0.5) & (np.abs(q[2]) <= 0.5)
        if solid == "sphere":
            return np.linalg.norm(q, axis=0) <= 0.6
        return np.hypot(across, q[2] - q[2].clip(-0.35, 0.35)) <= 0.4

    rng = np.random.default_rng(0)
    eye = rng.normal(size=(3, 300))
    eye *= 2.0 / np.linalg.norm(eye, axis=0)
    rays = rng.uniform(-0.7, 0.7, (3, 300)) - eye
    entry = _enter(solid, eye, rays)
    steps = np.linspace(0, 2, 4001)
    marched = np.array(
        [inside(eye[:, [i]] + rays[:, [i]] * steps).argmax() / 2000 for i in range(300)]
    )
    missed = marched == 0
    assert 20 < missed.sum() < 280
    grazed = missed & np.isfinite(entry)  # a march may step over a corner
    assert grazed.mean() < 0.02
    np.testing.assert_array_equal(np.isinf(entry[missed & ~grazed]), True)
    np.testing.assert_allclose(entry[~missed], marched[~missed], atol=6e-4)
    behind = _enter(solid, eye, -rays)
    assert np.isinf(behind).all()


def test_rays_along_a_plane_do_not_divide_by_zero() -> None:
    eye = np.array([[-2.0], [0.2], [0.2]])
    for solid in ("cube", "cylinder", "sphere", "capsule"):
        assert 0 < _enter(solid, eye, np.array([[1.0], [0.0], [0.0]]))[0] < 2
        assert np.isinf(_enter(solid, eye, np.array([[0.0], [0.0], [1.0]]))[0])


def test_geometry_is_cast_once_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    casts = []

    def count(size: int) -> np.ndarray:  # type: ignore[type-arg]
        casts.append(size)
        return np.zeros((480, 3, size**2), dtype=np.uint8)

    monkeypatch.setattr(synthetic_shapes3d, "cast_geometry", count)
    for _ in range(2):
        dataset = SyntheticShapes3D(image_size=16, cache_dir=tmp_path / "deep" / "cache")
        dataset.prepare()
        dataset.setup()
        dataset.setup()
    SyntheticShapes3D(image_size=32, cache_dir=tmp_path / "deep" / "cache").prepare()
    assert casts == [16, 32]
    names = sorted(path.name for path in (tmp_path / "deep" / "cache").iterdir())
    assert names == ["shapes3d-v1-16.npy", "shapes3d-v1-32.npy"]


def test_cast_is_reproducible(cache_dir: Path) -> None:
    dataset = SyntheticShapes3D(image_size=16, cache_dir=cache_dir)
    dataset.prepare()
    np.testing.assert_array_equal(np.load(dataset.cache_file), cast_geometry(16))


def test_cache_is_in_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert SyntheticShapes3D().cache_file == tmp_path / "detaux_pl" / "shapes3d-v1-64.npy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SyntheticShapes3D().cache_file.parent == tmp_path / ".cache" / "detaux_pl"


@pytest.mark.parametrize("content", [b"", b"junk", b"\x93NUMPY\x01\x00"])
def test_damaged_cache_is_named(tmp_path: Path, content: bytes) -> None:
    dataset = SyntheticShapes3D(image_size=16, cache_dir=tmp_path)
    dataset.cache_file.write_bytes(content)
    with pytest.raises(UserError, match=r"shapes3d-v1-16\.npy is damaged: delete it"):
        dataset.setup()


def test_cache_of_another_shape_is_named(tmp_path: Path) -> None:
    dataset = SyntheticShapes3D(image_size=16, cache_dir=tmp_path)
    np.save(dataset.cache_file, np.zeros((480, 3, 64), dtype=np.uint8))
    with pytest.raises(UserError, match="is damaged"):
        dataset.setup()


def test_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_shapes3d, "cast_geometry", lambda _: np.zeros(1))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="give another cache_dir"):
        SyntheticShapes3D(image_size=16, cache_dir=tmp_path / "file").prepare()


def test_images_before_setup_are_refused() -> None:
    with pytest.raises(RuntimeError, match="call setup first"):
        SyntheticShapes3D().images(torch.arange(2))


@pytest.mark.parametrize("image_size", [0, 8, 40])
def test_image_size_must_be_a_multiple_of_16(image_size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        SyntheticShapes3D(image_size=image_size)
