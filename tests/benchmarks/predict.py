"""`detaux predict` against a bare loop of torchvision: images per second, and memory.

Each measurement is a process of its own, that nothing of the other is in its memory.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.benchmarks.image_folder import run_watched, write_folder

_N, _FEW, _MANY = 10_000, 1_000, 50_000
_WORKERS, _BATCH, _TURNS = 2, 64, 2
_SMALL, _LARGE = ("small_convnet", 64), ("timm/tf_efficientnet_lite0", 224)
"""Networks, and the size of the images that they see [pixels]."""


def measure() -> Iterator[tuple[str, float, str]]:
    """Yield what is measured: name, value, unit."""
    with tempfile.TemporaryDirectory() as folder:
        root, few, many = (Path(folder) / name for name in ("images", "few", "many"))
        write_folder(root, _N)
        files = sorted(root.rglob("*.jpg"))
        _link(files[:_FEW], root, few)
        for copy in range(_MANY // _N):
            _link(files, root, many, f"{copy}-")
        for net, images, n in ((_LARGE, few, _FEW), (_SMALL, root, _N)):
            name = f"{n:,} JPEGs through {net[0]} of {net[1]} pixels, {_WORKERS} workers"
            turns = [[_run(how, images, net) for how in ("ours", "loop")] for _ in range(_TURNS)]
            (rate, kept), (rival, their_own) = (max(runs) for runs in zip(*turns, strict=True))
            yield f"torchvision, {name}", rival, "images/s"
            yield "the same by detaux predict", rate, "images/s"
            yield "ratio", rate / rival, "x (aim: at least 1.0)"
            yield "memory, ratio", kept / their_own, "x (aim: at most 1.1)"
        _, kept_of_many = _run("ours", many, _SMALL)
    yield f"memory, {_MANY:,} images to {_N:,}", kept_of_many / kept, "x (aim: at most 1.05)"


def _link(files: list[Path], root: Path, folder: Path, prefix: str = "") -> None:
    """Put the same files into another folder, under names of their own."""
    for file in files:
        path = folder / file.relative_to(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(prefix + file.name).hardlink_to(file)


def _run(how: str, root: Path, net: tuple[str, int]) -> tuple[float, float]:
    """Return images per second, and the peak of what all processes keep in memory [MB]."""
    said, peak = run_watched([sys.executable, "-m", __name__, how, str(root), *map(str, net)])
    return float(said.splitlines()[-1]), peak


def _net(name: str, size: int) -> torch.nn.Module:
    from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing

    torch.manual_seed(0)
    return HardParameterSharing((3, size, size), (2, 4), backbone=name).eval()


def _ours(root: Path, net: str, size: int) -> Iterator[int]:
    """Give, after each image, one."""
    from detaux_pl.data.preprocessing import Preprocessing
    from detaux_pl.inference.card import Card
    from detaux_pl.inference.classifier import Classifier
    from detaux_pl.inference.sources import image_paths
    from detaux_pl.inference.stream import classify

    tasks = {"principal": ("a", "b"), "auxiliary": ("0", "1", "2", "3")}
    card = Card("label", tasks, dict.fromkeys(tasks, 1.0), Preprocessing((3, size, size)))
    classifier = Classifier([_net(net, size)], card)
    paths = image_paths([str(root)], "path")
    for _ in classify(classifier, paths, 1, _BATCH, _WORKERS):
        yield 1


def _loop(root: Path, net: str, size: int) -> Iterator[int]:
    """Give, after each batch, its size."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, Resize, ToTensor

    module = _net(net, size)
    images = ImageFolder(root, Compose([Resize((size, size)), ToTensor()]))
    loader = DataLoader(images, batch_size=_BATCH, num_workers=_WORKERS)
    with torch.inference_mode():
        for batch, _ in loader:
            module(batch)[0].softmax(1).argmax(1).tolist()
            yield len(batch)


def main(how: str, root: str, net: str, size: str) -> None:
    """Go through a folder one of the two ways, and print images per second."""
    steps = {"ours": _ours, "loop": _loop}[how](Path(root), net, int(size))
    next(steps)  # what begins once is not counted
    begin = time.perf_counter()
    print(sum(steps) / (time.perf_counter() - begin))


if __name__ == "__main__":
    main(*sys.argv[1:])
