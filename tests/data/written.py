"""Small sets of image files, laid out as the originals are.

In every image the principal class shows as the colour and another factor, where there is one, as
the place of a bright square, under noise.
"""

from __future__ import annotations

import colorsys
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image

EXPRESSIONS, AGES, GENDERS, SETS = "adfhns", "ymo", "fm", "ab"
CORNERS = ("north", "east", "south", "west")
"""Values of the second factor of `write_table`."""


def draw(
    value: int, n_values: int, place: int, rng: np.random.Generator, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Draw an image, shape (height, width, 3).

    Args:
        value: Which colour of the circle.
        n_values: How many colours there are.
        place: Which corner is bright, 0 to 3.
        rng: Source of the noise.
        size: Height and width.
    """
    height, width = size
    colour = np.array(colorsys.hsv_to_rgb(value / n_values, 0.9, 0.6))
    image = np.broadcast_to(colour, (height, width, 3)).copy()
    top, left = place // 2 * (height // 2), place % 2 * (width // 2)
    image[top : top + height // 2, left : left + width // 2] += 0.3
    image += rng.normal(0, 0.03, image.shape)
    return (image.clip(0, 1) * 255).astype(np.uint8)


def write_faces(
    root: Path, n_persons: int = 6, size: int = 40, official: bool = False, seed: int = 0
) -> int:
    """Write all 12 images of each person; return their number.

    Args:
        root: Where to.
        n_persons: How many there are; ages and genders take turns.
        size: Width; the height is a quarter more, as in the original.
        official: Put every fifth person in `val` and the others in `train`.
        seed: Seed of the noise.
    """
    rng = np.random.default_rng(seed)
    for person in range(n_persons):
        age, gender = person % 3, person % 2
        folder = root / ("val" if person % 5 == 4 else "train") if official else root
        folder.mkdir(parents=True, exist_ok=True)
        for expression, letter in enumerate(EXPRESSIONS):
            for which in SETS:
                name = f"{person + 1:03}_{AGES[age]}_{GENDERS[gender]}_{letter}_{which}.jpg"
                image = draw(expression, len(EXPRESSIONS), age, rng, (size * 5 // 4, size))
                Image.fromarray(image).save(folder / name, quality=95)
    return n_persons * len(EXPRESSIONS) * len(SETS)


def write_cars(
    root: Path, n_models: int = 4, n_train: int = 40, n_test: int = 24, seed: int = 0
) -> None:
    """Write images of both splits and MATLAB's structures of annotations, models from 1."""
    rng = np.random.default_rng(seed)
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = np.array([[f"Maker Model{k} Sedan {2000 + k}" for k in range(n_models)]], dtype=object)
    scipy.io.savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    for part, n, file in (
        ("train", n_train, base / "devkit" / "cars_train_annos.mat"),
        ("test", n_test, base / "cars_test_annos_withlabels.mat"),
    ):
        folder = base / f"cars_{part}"
        folder.mkdir()
        fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
        annotations = np.empty((1, n), dtype=[(field, object) for field in fields])
        for row, model in enumerate(rng.permutation(np.arange(n) % n_models).tolist()):
            image = draw(model, n_models, row % 4, rng, (30, 48))
            Image.fromarray(image).save(folder / f"{row + 1:05}.jpg", quality=95)
            # One byte for the model, as in the original, which cannot hold a value below zero.
            annotations[0, row] = (3, 2, 40, 28, np.uint8(model + 1), f"{row + 1:05}.jpg")
        scipy.io.savemat(file, {"annotations": annotations})


def write_class_folders(
    root: Path,
    classes: Sequence[str] = ("bird", "cat", "dog"),
    n: int = 10,
    suffix: str = ".png",
    size: int = 20,
    seed: int = 0,
) -> None:
    """Write n images `00.png`, `01.png`, ... in a folder per class."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(n):
            image = draw(label, len(classes), number % 4, rng, (size, size))
            Image.fromarray(image).save(root / name / f"{number:02}{suffix}")


def write_table(
    root: Path,
    classes: Sequence[str] = ("bird", "cat", "dog"),
    n: int = 10,
    size: int = 20,
    seed: int = 0,
) -> Path:
    """Write n images per class in `root/images` and a table of them; return the table.

    It has the columns `image`, `label`, `corner` of 4 values, `weight` of numbers that are all
    different, and `note`, which is mostly empty.
    """
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    path = root / "labels.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "corner", "weight", "note"])
        for row in range(n * len(classes)):
            label, place = row % len(classes), row // len(classes) % 4
            name = f"images/{row:03}.png"
            image = draw(label, len(classes), place, rng, (size, size))
            Image.fromarray(image).save(root / name)
            note = "x" if row == 0 else ""
            writer.writerow([name, classes[label], CORNERS[place], row + 0.5, note])
    return path
