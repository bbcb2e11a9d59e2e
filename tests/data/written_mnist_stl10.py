"""Small MNIST and STL-10 files in the formats of the originals."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision.datasets import STL10

CLASS_NAMES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def digit_images(n: int) -> NDArray[np.uint8]:
    """Return n digits as MNIST holds them, shape (n, 28, 28), each another."""
    return np.random.default_rng(1).integers(0, 256, (n, 28, 28), dtype=np.uint8)


def background_images(n: int) -> NDArray[np.uint8]:
    """Return n backgrounds, RGB, shape (n, 3, 96, 96): channels, rows, columns."""
    return np.random.default_rng(2).integers(0, 256, (n, 3, 96, 96), dtype=np.uint8)


def labels(n: int, seed: int) -> NDArray[np.uint8]:
    """Return n labels of 10 classes, the first of which is twice as frequent as another."""
    return np.random.default_rng(seed).permutation(np.arange(n) % 11 % 10).astype(np.uint8)


def write_mnist(root: Path, n_train: int = 600, n_test: int = 100) -> None:
    """Write idx files as they are when unpacked: big-endian header, then bytes by row."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images, classes = digit_images(n_train + n_test), labels(n_train + n_test, 3)
    for part, rows in (("train", slice(n_train)), ("t10k", slice(n_train, None))):
        for name, magic, array in (
            ("images-idx3", 0x803, images[rows]),
            ("labels-idx1", 0x801, classes[rows]),
        ):
            header = np.array([magic, *array.shape], dtype=">i4")
            (folder / f"{part}-{name}-ubyte").write_bytes(header.tobytes() + array.tobytes())


def write_stl10(root: Path, n_train: int = 250, n_test: int = 400) -> None:
    """Write the labelled binaries: an image by channel and then by column, labels from 1."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    images, classes = background_images(n_train + n_test), labels(n_train + n_test, 4)
    for part, rows in (("train", slice(n_train)), ("test", slice(n_train, None))):
        images[rows].transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")
        (classes[rows] + 1).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(CLASS_NAMES) + "\n")


def accept_stl10(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Let torchvision take the files of `root` for the original ones."""
    for part in ("train", "test"):
        accepted = []
        for name in (f"{part}_X.bin", f"{part}_y.bin"):
            content = (root / "stl10_binary" / name).read_bytes()
            accepted.append([name, hashlib.md5(content).hexdigest()])
        monkeypatch.setattr(STL10, f"{part}_list", accepted)
