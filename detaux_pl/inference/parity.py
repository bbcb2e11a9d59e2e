"""Whether the files of a bundle say what the networks say that they were made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.factor_dataset import FactorDataset, as_rows
from detaux_pl.data.fit_images import FitImages
from detaux_pl.inference.bundle import ONNX, PROGRAM, WEIGHTS, MemberJson, read_members
from detaux_pl.inference.classifier import Classifier
from detaux_pl.inference.graph import INPUT, output_names

LIMIT = 1e-4
"""Largest difference of a probability that is taken for the same answer."""
_MOST = 32
"""Images that are asked about."""
_SCALES = {
    "landscape, larger": (1.7, 2.9), "landscape, smaller": (0.5, 0.9),
    "portrait, larger": (2.9, 1.7), "portrait, smaller": (0.9, 0.5),
    "square, larger": (2.3, 2.3), "square, smaller": (0.6, 0.6),
}  # fmt: skip
"""Height and width of pictures of other sizes, relative to those of the data set."""

Images = NDArray[np.uint8]
"""uint8, shape (B, H, W, C)."""
Told = list[NDArray[np.float32]]
"""Probabilities of each task, shape (B, classes)."""


class OfSize(TypedDict):
    """What differs on pictures that are resized: in the graph by tensors, before it by Pillow.

    Args:
        height: Of the pictures [pixels].
        width: Likewise.
        levels: Largest difference of a pixel, of 255.
        pixels: Share of the pixels that differ.
        files: Largest difference of a probability, by file.
    """

    height: int
    width: int
    levels: int
    pixels: float
    files: dict[str, float]


class Parity(TypedDict):
    """The content of `parity.json`.

    Args:
        limit: Largest difference of a probability that was allowed.
        images: What was asked about.
        n_images: How many of these.
        files: Largest difference of a probability from PyTorch's, by file and output.
        other_sizes: What differs on pictures of other sizes, by description; nothing is refused.
    """

    limit: float
    images: str
    n_images: int
    files: dict[str, dict[str, float]]
    other_sizes: dict[str, OfSize]


def some_images(dataset: FactorDataset | None, shape: tuple[int, int, int]) -> tuple[Images, str]:
    """Return the first test images, or noise where there are none at hand, and what they are.

    Args:
        dataset: The data set, set up; None where it cannot be read.
        shape: Channels, height and width of the images of the networks.
    """
    rows = np.zeros(0, dtype=np.int64) if dataset is None else dataset.rows("test")[:_MOST]
    if dataset is not None and len(rows) and dataset.image_shape == shape:
        found = dataset.images(as_rows(rows)).numpy()
        return np.ascontiguousarray(found.transpose(0, 2, 3, 1)), "test images"
    drawn = np.random.default_rng(0).integers(0, 256, (_MOST, *shape[1:], shape[0]))
    return drawn.astype(np.uint8), "noise"


def measure(
    classifier: Classifier, members: Sequence[MemberJson], folder: Path, images: Images, what: str
) -> Parity:
    """Compare the files of a bundle with the networks that they were made from.

    Args:
        classifier: The networks, on the CPU.
        members: What they are built from.
        folder: Where the files are.
        images: Of the size of the data set.
        what: What these are.

    Raises:
        UserError: If a file says something else.
    """
    graphs = _graphs(folder)
    again = Classifier(read_members(folder, members), classifier.card)
    asked: dict[str, Callable[[Images], Told]] = {
        WEIGHTS: lambda pixels: _ask(again, pixels), **graphs
    }  # fmt: skip
    names = output_names(classifier.card.tasks)
    expected = _ask(classifier, images)
    files: dict[str, dict[str, float]] = {}
    for name, ask in asked.items():
        files[name] = dict(zip(names, _differences(expected, ask(images)), strict=True))
        worst = max(files[name].values())
        if not worst <= LIMIT:
            raise UserError(
                f"{name} answers otherwise than the networks, by up to {worst:.2g} of a "
                f"probability where {LIMIT:g} is allowed: leave it out by --format, or try other "
                "versions of torch and onnxruntime."
            )
    others = {}
    if graphs and images.shape[-1] in (1, 3):  # others Pillow does not read
        height, width = images.shape[1:3]
        for told, (tall, wide) in _SCALES.items():
            size = max(1, round(tall * height)), max(1, round(wide * width))
            if told.startswith("square"):
                size = (min(size), min(size))
            others[told] = _of_size(classifier, graphs, images[:8], size)
    return {
        "limit": LIMIT, "images": what, "n_images": len(images), "files": files,
        "other_sizes": others,
    }  # fmt: skip


def _of_size(
    classifier: Classifier,
    graphs: Mapping[str, Callable[[Images], Told]],
    images: Images,
    size: tuple[int, int],
) -> OfSize:
    preprocessing = classifier.preprocessing
    flat = [image[..., 0] if image.shape[-1] == 1 else image for image in images]
    pictures = [Image.fromarray(each).resize(size[::-1], Image.Resampling.BICUBIC) for each in flat]
    read = np.stack([preprocessing.read(picture.copy()) for picture in pictures])
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    pixels = pixels.reshape(len(images), *size, images.shape[-1])
    fit = FitImages(preprocessing.shape[1:], preprocessing.fit)
    fitted = fit(torch.from_numpy(pixels)).numpy()
    gaps = np.abs(fitted.astype(np.int64) - read)
    expected = list(classifier.ask(read).values())
    return {
        "height": size[0],
        "width": size[1],
        "levels": int(gaps.max()),
        "pixels": float((gaps > 0).mean()),
        "files": {name: max(_differences(expected, ask(pixels))) for name, ask in graphs.items()},
    }


def _ask(classifier: Classifier, images: Images) -> Told:
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return list(classifier.ask(pixels).values())


def _graphs(folder: Path) -> dict[str, Callable[[Images], Told]]:
    """Open the graphs of a bundle."""
    found: dict[str, Callable[[Images], Told]] = {}
    if (folder / ONNX).exists():
        runtime = import_module("onnxruntime")
        session = runtime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
        found[ONNX] = lambda images: list(session.run(None, {INPUT: images}))
    if (folder / PROGRAM).exists():
        module = torch.export.load(folder / PROGRAM).module()

        def run(images: Images) -> Told:
            with torch.no_grad():
                return [each.numpy() for each in module(torch.from_numpy(images))]

        found[PROGRAM] = run
    return found


def _differences(expected: Told, told: Told) -> list[float]:
    """Largest difference of each task; NaN where something is not a number."""
    return [
        float(np.abs(first - second).max()) for first, second in zip(expected, told, strict=True)
    ]
