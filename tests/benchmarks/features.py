"""Features of a folder of JPEGs against a bare loop of timm: images per second, and memory.

Each measurement is a process of its own, that nothing of the other is in its memory. Both decode
the files, and start two processes for it. By itself: `python -m tests.benchmarks.features`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.benchmarks.image_folder import run_watched, write_folder

_SIZE = 224
_N, _MANY = 1_000, 4_000
_WORKERS, _BATCH = 2, 64
_NET = "tf_efficientnet_lite0"


def measure() -> Iterator[tuple[str, float, str]]:
    """Yield what is measured: name, value, unit."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_folder(root / "few", _N)
        write_folder(root / "many", _MANY)
        rival, their_own = _run("loop", root / "few", root)
        rate, kept = _run("ours", root / "few", root)
        again, _ = _run("ours", root / "few", root)
        rate_of_many, kept_of_many = _run("ours", root / "many", root)
    yield f"timm, {_N:,} JPEGs to features, {_WORKERS} workers", rival, "images/s"
    yield "the same by PretrainedFeatures", rate, "images/s"
    yield "ratio", rate / rival, "x (aim: at least 1.0)"
    yield "again from the cache, ratio", again / rate, "x (aim: at least 20)"
    yield f"images per second, {_MANY:,} images to {_N:,}", rate_of_many / rate, "x"
    yield "memory, ratio", kept / their_own, "x (aim: at most 1.1)"
    yield f"memory, {_MANY:,} images to {_N:,}", kept_of_many / kept, "x (aim: at most 1.1)"


def _run(how: str, root: Path, cache: Path) -> tuple[float, float]:
    """Return images per second, and the peak of what all processes keep in memory [MB]."""
    said, peak = run_watched([sys.executable, "-m", __name__, how, str(root), str(cache / "cache")])
    return float(said.splitlines()[-1]), peak


def _ours(root: Path, cache: Path) -> Iterator[int]:
    """Give the number of images, when all is done."""
    from detaux_pl.data.datasets.image_folder import ImageFolder
    from detaux_pl.models.feature_cache import open_features
    from detaux_pl.models.pretrained import PretrainedNet

    torch.manual_seed(0)
    net = PretrainedNet(f"timm/{_NET}", (3, _SIZE, _SIZE), pretrained=False)
    yield 0
    dataset = ImageFolder(root, image_size=_SIZE, cache_dir=cache)
    dataset.setup()
    yield len(open_features(net, dataset))


def _loop(root: Path, cache: Path) -> Iterator[int]:
    """Give, after each batch, its size."""
    import timm
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    del cache
    torch.manual_seed(0)
    net = timm.create_model(_NET, num_classes=0).eval()
    config = timm.data.resolve_data_config(model=net)
    images = ImageFolder(root, timm.data.create_transform(**{**config, "crop_pct": 1.0}))
    loader = DataLoader(images, batch_size=_BATCH, num_workers=_WORKERS)
    yield 0
    features = []
    with torch.inference_mode():
        for batch, _ in loader:
            features.append(net(batch))
            yield len(batch)


def main(how: str, root: str, cache: str) -> None:
    """Go through a folder one of the two ways, and print images per second."""
    steps = {"ours": _ours, "loop": _loop}[how](Path(root), Path(cache))
    next(steps)  # the network is built
    begin = time.perf_counter()
    print(sum(steps) / (time.perf_counter() - begin))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(*sys.argv[1:])
    else:
        for name, value, unit in measure():
            print(f"{name}: {value:,.2f} {unit}", flush=True)
