"""An image file is read as the data set of a training reads it, to the last pixel."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detaux_pl.data.augmentation import Augmentation
from detaux_pl.data.crop_flip import CropFlip
from detaux_pl.data.datasets.image_folder import ImageFolder
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.data.preprocessing import Preprocessing
from detaux_pl.inference.card import Card

_SIZES = [(40, 30), (30, 40), (64, 64), (16, 20)]


def _folder(root: Path, mode: str) -> Path:
    rng = np.random.default_rng(0)
    for k in range(24):
        height, width = _SIZES[k % len(_SIZES)]
        shape = (height, width, 3) if mode == "RGB" else (height, width)
        deep = mode == "I;16"
        pixels = rng.integers(0, 4096 if deep else 256, shape).astype("u2" if deep else "u1")
        suffix = ".png" if deep else [".png", ".jpg"][k % 2]
        path = root / ["cat / dog", "no cat"][k % 2].replace(" / ", "_") / f"{k:02}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("image_size", "crop"), [(None, None), (20, None), (24, 20)])
def test_a_file_becomes_what_the_training_saw(
    mode: str, fit: str, image_size: int | None, crop: int | None, tmp_path: Path
):
    augment = None if crop is None else CropFlip(crop)
    dataset = ImageFolder(
        _folder(tmp_path / "images", mode), principal="label", image_size=32,
        channels=3 if mode == "RGB" else 1, fit=fit, cache_dir=tmp_path / "cache",
    )  # type: ignore[arg-type]  # fmt: skip
    data = LabelledDataModule(dataset, image_size=image_size, augment=augment)
    data.prepare_data()
    data.setup("fit")
    rows = np.arange(len(dataset))
    own = Preprocessing.of(dataset, image_size, augment)
    read = np.stack([own.read(path) for path in dataset.index.paths])
    torch.testing.assert_close(
        own.finish(torch.from_numpy(read)), data.images(rows), rtol=0, atol=0
    )


def test_an_array_and_an_image_are_read_as_their_file(tmp_path: Path):
    own = Preprocessing((3, 16, 16))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    expected = own.read(tmp_path / "image.png")
    np.testing.assert_array_equal(own.read_array(pixels), expected)
    np.testing.assert_array_equal(own.read(Image.fromarray(pixels)), expected)
    small = np.ascontiguousarray(expected.transpose(1, 2, 0))
    np.testing.assert_array_equal(own.read_array(small), expected)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32 of shape (4, 4, 3): give uint8"),
        (np.zeros((4, 4, 5), np.uint8), "shape (4, 4, 5): give 1, 3 or 4 channels"),
        (np.zeros((2, 4, 4, 3), np.uint8), "shape (2, 4, 4, 3): give uint8 of shape (H, W)"),
    ],
)
def test_what_is_no_image_is_told(pixels: np.ndarray, said: str):  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=re.escape(said)):
        Preprocessing((3, 16, 16)).read_array(pixels)


def test_a_card_is_the_same_after_it_was_written(tmp_path: Path):
    augment = {"class_path": "detaux_pl.data.crop_flip.CropFlip", "init_args": {"size": 20}}
    tasks = {"principal": ("cat / dog", 'a "cat", <b>'), "auxiliary": ("noise", "1")}
    own = Preprocessing((3, 32, 32), fit="pad", image_size=24, augmentation=CropFlip(20))
    card = Card("pet", tasks, {"principal": 1.5, "auxiliary": 0.75}, own, augment)  # type: ignore[arg-type]
    card.save(tmp_path / "classifier.json")
    again = Card.load(tmp_path / "classifier.json", "train again")
    assert again.tasks == tasks
    assert again.temperatures == card.temperatures
    assert again.as_json() == card.as_json()
    assert isinstance(again.preprocessing.augmentation, Augmentation)
    images = torch.rand(2, 3, 32, 32).mul(255).byte()
    torch.testing.assert_close(again.preprocessing.finish(images), own.finish(images))
