"""Small file sets laid out as dSprites, Cars3D, SmallNORB and MPI3D are."""

from __future__ import annotations

import gzip
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat


def write_dsprites(
    folder: Path, sizes: tuple[int, ...] = (3, 2, 4, 3, 2), seed: int = 0
) -> tuple[Path, NDArray[np.uint8]]:
    """Write an `.npz` with fewer values per factor; return its path and `imgs`."""
    classes = np.indices((1, *sizes)).reshape(6, -1).T
    images = np.random.default_rng(seed).integers(0, 2, (len(classes), 64, 64), dtype=np.uint8)
    path = folder / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    metadata = np.array({"latents_names": ("color", "shape", "scale", "orientation", "posX")})
    np.savez_compressed(
        path,
        metadata=metadata,  # pickled, as in the original
        imgs=images,
        latents_classes=classes,
        latents_values=classes.astype(np.float64),
    )
    return path, images


def mini_mpi3d(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make 1 × 2 positions of the arm a whole MPI3D: 1,296 images, 576 of the complex one."""
    monkeypatch.setattr("detaux_pl.data.datasets.mpi3d._AXES", (1, 2))


def write_mpi3d(
    folder: Path, name: str = "mpi3d_toy.npz", seed: int = 0
) -> tuple[Path, NDArray[np.uint8]]:
    """Write an `.npz` of the size that `mini_mpi3d` expects; return its path and `images`.

    A pixel is constant over 8 × 8 blocks, so that the file is small.
    """
    count = 576 if "complex" in name else 1296
    tiles = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = tiles.repeat(8, axis=1).repeat(8, axis=2)
    np.savez_compressed(folder / name, images=images)
    return folder / name, images


def car_images(car: int) -> NDArray[np.uint8]:
    """`im` of a car: (height, width, RGB, azimuth, elevation), constant over 16 × 16 blocks."""
    tiles = np.random.default_rng(car).integers(0, 256, (8, 8, 3, 24, 4), dtype=np.uint8)
    return tiles.repeat(16, axis=0).repeat(16, axis=1)


def car_file(images: NDArray[np.uint8]) -> bytes:
    """Contents of a `.mat` of one car."""
    buffer = BytesIO()
    mask = np.zeros((*images.shape[:2], *images.shape[3:]), np.uint8)
    savemat(buffer, {"im": images, "mask": mask}, do_compression=True)
    return buffer.getvalue()


def write_cars3d(root: Path, cars: tuple[int, ...] = (3, 1, 12), packed: bool = True) -> Path:
    """Write the archive, in the given order of cars, or the folder of some cars."""
    names = [f"car_{car:03d}_mesh" for car in cars]
    members = {
        "data/cars/list.txt": "\n".join(names).encode(),
        "data/sprites/sprites_1.mat": b"of another data set",
        **{
            f"data/cars/{name}.mat": car_file(car_images(car))
            for name, car in zip(names, cars, strict=True)
        },
    }
    if packed:
        with tarfile.open(root / "nips2015-analogy-data.tar.gz", "w:gz", compresslevel=1) as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, BytesIO(data))
    else:
        for name, data in members.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    return root


NORB_PARTS = (
    ("smallnorb-5x46789x9x18x6x2x96x96-training", (4, 6, 7, 8, 9)),
    ("smallnorb-5x01235x9x18x6x2x96x96-testing", (0, 1, 2, 3, 5)),
)
"""Stem of the file names and instances of the two parts."""


def norb_matrix(array: NDArray[np.generic]) -> bytes:
    """Contents of a binary matrix: at least three dimensions are written."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[array.dtype.name]
    shape = array.shape + (1,) * (3 - array.ndim)
    header = np.array([magic, array.ndim, *shape], "<i4")
    return header.tobytes() + np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def write_small_norb(
    root: Path, rows: int = 60, packed: bool = True, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Write the six files with fewer rows; return `dat` and category with `info` of both parts.

    The categories take turns, as in the original; the other factors are drawn.
    """
    rng = np.random.default_rng(seed)
    images, tables = [], []
    for stem, instances in NORB_PARTS:
        tiles = rng.integers(0, 256, (rows, 2, 12, 12), dtype=np.uint8)
        dat = tiles.repeat(8, axis=2).repeat(8, axis=3)
        category = np.arange(rows, dtype=np.int32) % 5
        drawn = [rng.choice(instances, rows), *(rng.integers(0, n, rows) for n in (9, 18, 6))]
        info = np.stack(drawn, axis=1).astype(np.int32)
        info[:, 2] *= 2
        for kind, array in (("dat", dat), ("cat", category), ("info", info)):
            data = norb_matrix(array)
            path = root / f"{stem}-{kind}.mat"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data, 1))
            else:
                path.write_bytes(data)
        images.append(dat)
        tables.append(np.column_stack([category, info]))
    return np.concatenate(images), np.concatenate(tables)
