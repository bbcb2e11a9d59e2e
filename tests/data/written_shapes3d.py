"""A file in the format of the original 3D Shapes, with few images in it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch

from detaux_pl.data.datasets.synthetic_shapes3d import SyntheticShapes3D

_N = 480_000


def write_shapes3d(path: Path, drawn: SyntheticShapes3D) -> Path:
    """Write `3dshapes.h5` with the images of a set-up data set; all others are black.

    Black chunks take no room, and the chunks are those of the original.
    """
    with h5py.File(path, "w") as file:
        images = file.create_dataset(
            "images", (_N, 64, 64, 3), "uint8", chunks=(1, 64, 64, 3), compression="gzip"
        )
        pixels = drawn.images(torch.arange(len(drawn))).numpy().transpose(0, 2, 3, 1)
        for row, image in zip(drawn.ids.tolist(), pixels, strict=True):
            images[row] = image
        hues = np.arange(10) / 10
        axes = (
            hues,
            hues,
            hues,
            np.linspace(0.75, 1.25, 8),
            np.arange(4),
            np.linspace(-30, 30, 15),
        )
        file["labels"] = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(_N, -1)
    return path
