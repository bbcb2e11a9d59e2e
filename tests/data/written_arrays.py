"""Small file sets in the true formats of data sets that come as arrays.

Every writer returns the images, uint8, shape (n, H, W, 3), and the labels, shape (n,), in their
order in the data set. The class shows in the colour, and the second factor, where there is one,
in a bright upper or lower half.
"""

from __future__ import annotations

import colorsys
import copyreg
import hashlib
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

Written = tuple[NDArray[np.uint8], NDArray[np.int64]]

HALVES = ("lower", "upper")


def draw_images(
    labels: NDArray[np.int64], size: int, seed: int = 0, upper: NDArray[np.int64] | None = None
) -> NDArray[np.uint8]:
    """Draw noisy images of a colour for each of 10 classes, shape (n, size, size, 3)."""
    rng = np.random.default_rng(seed)
    colours = np.array([colorsys.hsv_to_rgb(k / 10, 1, 0.6) for k in range(10)])
    images = np.broadcast_to(colours[labels][:, None, None], (len(labels), size, size, 3)).copy()
    if upper is not None:
        for image, half in zip(images, upper, strict=True):
            image[: size // 2] += 0.25 * half
            image[size // 2 :] += 0.25 * (1 - half)
    images += rng.uniform(0, 0.1, images.shape)
    return (images * 255).astype(np.uint8)


def _labels(n: int, n_classes: int, seed: int) -> NDArray[np.int64]:
    """Equally many of each class, in random order."""
    return np.random.default_rng([seed, 1]).permutation(np.arange(n) % n_classes)


class _OldPickler(pickle.Pickler):
    """Writes dtypes as Python 2 and the NumPy of its time did: numbers where flags belong."""

    dispatch_table = {  # noqa: RUF012
        **copyreg.dispatch_table,
        type(np.dtype(np.uint8)): lambda dtype: (np.dtype, (dtype.str[1:], 0, 1)),
    }


def write_cifar10(root: Path, n_train: int = 200, n_test: int = 50, seed: int = 0) -> Written:
    """Write `cifar-10-batches-py`: five pickled batches, one of test images and one of names."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    labels = np.concatenate([_labels(n_train, 10, seed), _labels(n_test, 10, seed + 1)])
    images = draw_images(labels, 32, seed)
    parts = [*np.array_split(np.arange(n_train), 5), np.arange(n_train, n_train + n_test)]
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    for name, rows in zip(names, parts, strict=True):
        batch = {
            "batch_label": name,
            "labels": labels[rows].tolist(),
            "data": images[rows].transpose(0, 3, 1, 2).reshape(len(rows), 3072),
            "filenames": [f"{row}.png" for row in rows.tolist()],
        }
        with (folder / name).open("wb") as handle:
            _OldPickler(handle, protocol=2).dump(batch)
    classes = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    meta = {"num_cases_per_batch": n_train // 5, "label_names": classes, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return images, labels


def accept_cifar10(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Let torchvision take the files under `root` for the original ones."""
    source = datasets.CIFAR10
    folder = root / source.base_folder
    for name in ("train_list", "test_list"):
        parts = [[file, _md5(folder / file)] for file, _ in getattr(source, name)]
        monkeypatch.setattr(source, name, parts)
    meta = {**source.meta, "md5": _md5(folder / source.meta["filename"])}
    monkeypatch.setattr(source, "meta", meta)


def write_svhn(root: Path, n_train: int = 200, n_test: int = 50, seed: int = 0) -> Written:
    """Write `train_32x32.mat` and `test_32x32.mat`, where the digit 0 has the label 10."""
    root.mkdir(parents=True, exist_ok=True)
    parts = []
    for split, n in (("train", n_train), ("test", n_test)):
        labels = _labels(n, 10, seed + len(parts))
        images = draw_images(labels, 32, seed + len(parts))
        content = {
            "X": images.transpose(1, 2, 3, 0),
            "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None],
        }
        scipy.io.savemat(root / f"{split}_32x32.mat", content, do_compression=True)
        parts.append((images, labels))
    return np.concatenate([parts[0][0], parts[1][0]]), np.concatenate([parts[0][1], parts[1][1]])


def accept_svhn(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Let torchvision take the files under `root` for the original ones."""
    parts = {
        split: [url, file, _md5(root / file) if (root / file).is_file() else md5]
        for split, (url, file, md5) in datasets.SVHN.split_list.items()
    }
    monkeypatch.setattr(datasets.SVHN, "split_list", parts)


def arrays(n: int = 120, n_classes: int = 3, size: int = 16, seed: int = 0) -> dict[str, Any]:
    """Arrays of your own: `images`, `label` (integers) and `half` (strings)."""
    labels = _labels(n, n_classes, seed)
    upper = np.random.default_rng([seed, 2]).integers(0, 2, n)
    return {
        "images": draw_images(labels, size, seed, upper),
        "label": labels,
        "half": np.array(HALVES)[upper],
    }


def write_npz(
    path: Path, n: int = 120, n_classes: int = 3, size: int = 16, seed: int = 0
) -> Written:
    """Write `arrays` as a compressed `.npz`."""
    content = arrays(n, n_classes, size, seed)
    np.savez_compressed(path, **content)
    return content["images"], content["label"]


def write_h5(
    path: Path, n: int = 120, n_classes: int = 3, size: int = 16, seed: int = 0
) -> Written:
    """Write `arrays` as HDF5, compressed in chunks, with strings of variable length."""
    content = arrays(n, n_classes, size, seed)
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=content["images"], chunks=True, compression="gzip")
        file["label"] = content["label"]
        file["half"] = content["half"].astype(object)
    return content["images"], content["label"]


def write_hugging_face(
    path: Path,
    n_train: int = 120,
    n_val: int = 0,
    n_test: int = 0,
    n_classes: int = 3,
    size: int = 16,
    seed: int = 0,
) -> Written:
    """Save a data set with columns `image`, `label` (classes) and `half` (strings).

    A split of no image is left out. The images are PNGs; the rows of the result come in the order
    of the ids: test, train, validation.
    """
    import datasets as hugging_face

    counts = {"test": n_test, "train": n_train, "validation": n_val}
    content = arrays(sum(counts.values()), n_classes, size, seed)
    features = hugging_face.Features(
        image=hugging_face.Image(),
        label=hugging_face.ClassLabel(names=[f"class {k}" for k in range(n_classes)]),
        half=hugging_face.Value("string"),
    )
    parts, start = hugging_face.DatasetDict(), 0
    for split, n in counts.items():
        rows = slice(start, start + n)
        start += n
        if n:
            part = {
                "image": [Image.fromarray(image) for image in content["images"][rows]],
                "label": content["label"][rows].tolist(),
                "half": content["half"][rows].tolist(),
            }
            parts[split] = hugging_face.Dataset.from_dict(part, features)
    parts.save_to_disk(str(path))
    return content["images"], content["label"]


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
