from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detaux_pl.artifacts.codes import LABELLED
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.image_files import FileIndex, ImageFiles
from detaux_pl.data.inspection import Inspection, inspect_dataset

_CLASSES = ("crab", "fox", "owl")


class Animals(ImageFiles):
    """Files of the form `split/class/name`."""

    def __init__(self, root: Path, cache_dir: Path, size: int = 8) -> None:
        super().__init__("animal", size, cache_dir=cache_dir)
        self.root = root
        self.ignored: list[Path] = []

    @property
    def place(self) -> Path:
        return self.root

    def read_index(self) -> FileIndex:
        if not self.root.is_dir():
            raise UserError(f"the folder {self.root} does not exist.")
        ids = sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*.*"))
        self.ignored = [self.root / name for name in ids if name.endswith(".txt")]
        ids = [name for name in ids if not name.endswith(".txt")]
        parts = [name.split("/") for name in ids]
        return FileIndex(
            [self.root / name for name in ids],
            np.array(ids),
            np.array([LABELLED.index(part[0]) for part in parts], dtype=np.int8),
            np.array([[_CLASSES.index(part[1]), len(part[2])] for part in parts], dtype=np.int64),
            ("animal", "letters"),
            (len(_CLASSES), 20),
            {"animal": _CLASSES},
        )


def _save(path: Path, seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = (3,) if mode == "RGB" else ()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode if mode == "L" else None).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """2 images of each class in each split, 18 in all, that need no mending."""
    root = tmp_path / "animals"
    for k, split in enumerate(LABELLED):
        for c, name in enumerate(_CLASSES):
            for n in range(2):
                _save(root / split / name / f"{n}.png", 100 * k + 10 * c + n)
    return root


def _inspect(root: Path, **settings: int) -> Inspection:
    dataset = Animals(root, root.parent / "cache", **settings)
    return inspect_dataset(dataset, (2, 4, *dataset.image_shape))


def _findings(inspection: Inspection) -> dict[str, tuple[str, ...]]:
    return {
        f"{'mend' if finding.mend else 'note'}: {finding.what}": finding.names
        for finding in inspection.findings
    }


def test_good_files_need_no_mending(root: Path):
    found = _inspect(root)
    assert found.n_to_mend == 0
    assert found.findings == ()
    assert (found.dataset, found.principal, found.classes) == ("Animals", "animal", _CLASSES)
    np.testing.assert_array_equal(found.counts, np.full((3, 3), 2))
    assert found.others == {"letters": 20}
    assert found.image_shape == (3, 8, 8)
    assert found.memory.pixels == 18 * 3 * 8 * 8
    assert found.memory.batch == 2 * 4 * 3 * 8 * 8 * 4
    assert found.memory.kept == "mapped from disk"
    assert found.memory.cache is not None
    assert (found.memory.cache / "pixels.npy").is_file()
    assert found.memory.cache_free > 0


def test_headers_are_those_of_the_upright_files(root: Path):
    shutil.rmtree(root / "val")
    _save(root / "val/fox/grey.png", 1000, (40, 30), "L")
    for orientation, name in ((1, "upright"), (6, "turned"), (3, "overhead")):
        path = _save(root / f"val/fox/{name}.jpg", 1000 + orientation, (7, 50))
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(path) as image:
            image.save(path, exif=exif)
    headers = _inspect(root).headers
    assert headers is not None
    assert headers.heights == (7, 12, 50)
    assert headers.widths == (7, 10, 50)
    assert headers.modes == {"RGB": 15, "L": 1}
    assert headers.turned == 2
    assert headers.enlarged == ("val/fox/overhead.jpg", "val/fox/turned.jpg", "val/fox/upright.jpg")


def test_images_are_enlarged_where_one_side_is_short(root: Path):
    findings = _findings(_inspect(root, size=11))
    assert len(findings["note: 18 images are enlarged to 11 x 11 pixels"]) == 18
    dataset = Animals(root, root.parent / "cache", 11)
    dataset.fit = "pad"
    headers = inspect_dataset(dataset, (1,)).headers
    assert headers is not None
    assert headers.enlarged == ()


def test_all_unreadable_files_are_named_and_the_others_cached(root: Path):
    (root / "test/owl/0.png").write_bytes(b"")
    good = root / "train/crab/0.png"
    good.write_bytes(good.read_bytes()[:200])
    found = _inspect(root)
    (finding,) = found.findings[:1]
    assert finding.what == "2 of 18 images cannot be read: mend or remove them"
    assert [name.split(": ")[0] for name in finding.names] == [
        str(root / "test/owl/0.png"),
        str(good),
    ]
    assert found.n_to_mend == 1
    assert found.headers is not None
    assert sum(found.headers.modes.values()) == 17  # a truncated file has a header
    folder = found.memory.cache
    assert folder is not None
    assert int(np.load(folder / "done.npy").sum()) == 16


def test_same_files_are_found_across_and_within_splits(root: Path):
    shutil.copy(root / "train/crab/0.png", root / "test/crab/copy.png")
    shutil.copy(root / "train/fox/0.png", root / "train/owl/copy.png")
    assert _findings(_inspect(root)) == {
        "mend: 1 image stands in more than one split: keep one of each": (
            "test/crab/copy.png (test) = train/crab/0.png (train)",
        ),
        "note: 1 image has several labels of animal": (
            "train/fox/0.png (fox) = train/owl/copy.png (owl)",
        ),
        "note: 1 image stands more than once in a split": (
            "train/fox/0.png (train) = train/owl/copy.png (train)",
        ),
    }


def test_unreadable_files_are_no_copies_of_each_other(root: Path):
    for path in ("train/owl/0.png", "test/owl/0.png"):
        (root / path).unlink()
        (root / path).symlink_to(root / "nowhere.png")
    assert list(_findings(_inspect(root))) == [
        "mend: 2 of 18 images cannot be read: mend or remove them"
    ]


def test_classes_and_splits_that_cannot_be_trained_on(root: Path):
    shutil.rmtree(root / "train/owl")
    (root / "train/fox/0.png").unlink()
    shutil.rmtree(root / "val")
    (root / "train" / "notes.txt").write_text("")
    assert _findings(_inspect(root)) == {
        "mend: the val split is empty: give it images, or raise val_share where it is drawn": (),
        "mend: 1 class absent from train, but not from val and test: add images or leave out": (
            "owl",
        ),
        "mend: 1 class of one train image, where a pair needs 2: add images or leave out": ("fox",),
        "note: 1 other file or folder is left out": (str(root / "train/notes.txt"),),
    }


def test_one_class_and_classes_without_images(root: Path):
    for split in LABELLED:
        shutil.rmtree(root / split / "owl")
        shutil.rmtree(root / split / "fox")
    assert _findings(_inspect(root)) == {
        "mend: train has one class only (crab): at least 2 are needed": (),
        "note: 2 classes without any image": ("fox", "owl"),
    }


def test_a_missing_folder_is_the_error_of_the_data_set(tmp_path: Path):
    with pytest.raises(UserError, match=r"animals does not exist"):
        _inspect(tmp_path / "animals")


class CopiedScenes(DigitScenes):
    """Scenes of which the last one in test is the first in train."""

    def setup(self) -> None:
        super().setup()
        assert self.pixels is not None
        self.pixels[-1] = self.pixels[0]
        self.factors[-1] = self.factors[0]


def test_same_pixels_are_found_where_there_are_no_files():
    dataset = CopiedScenes(n_train=300, n_val=200, n_test=100)
    found = inspect_dataset(dataset, (2, 32, 3, 16, 16))
    assert _findings(found) == {
        "mend: 1 image stands in more than one split: keep one of each": ("0 (train) = 599 (test)",)
    }
    np.testing.assert_array_equal(found.counts.sum(axis=0), [300, 200, 100])
    assert found.headers is None
    assert found.others == {"background": 10, "location": 8}
    assert found.memory.kept == "in memory"
    assert found.memory.cache is None
    assert torch.equal(dataset.images(torch.tensor([0])), dataset.images(torch.tensor([599])))
