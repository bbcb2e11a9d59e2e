"""Speed of the way from a folder of JPEGs to batches, against torchvision's `ImageFolder`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms.v2 import PILToTensor

from detaux_pl.data.datasets.image_folder import ImageFolder
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.data.pixel_cache import PixelWriter

_IMAGES = 20_000
_CLASSES = 10
_SIZE = 224
_BATCH = 64
_WORKERS = 2
_INTERVAL = 0.05
"""Seconds between two looks at the memory."""


def measure() -> list[tuple[str, float, str]]:
    """Return name, value and unit of each figure; every way runs in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "images", Path(folder) / "cache"
        Console(stderr=True).print(f"[dim]{_IMAGES:,} JPEGs of {_SIZE} x {_SIZE} are made[/]")
        write_folder(root)
        # The rival first: what it reads lies in the system's cache for ours, and the other way
        # round in the second pass.
        theirs = _run("theirs", root, cache)
        first = _run("first", root, cache)
        again = _run("theirs again", root, cache)
        cached = _run("cached", root, cache)
        decoded = _run("decoded", root, Path(folder) / "nothing")
    rival = _IMAGES / theirs["seconds"], _IMAGES / again["seconds"]
    rate = {
        name: _IMAGES / run["seconds"]
        for name, run in (("first", first), ("cached", cached), ("decoded", decoded))
    }
    return [
        (f"torchvision ImageFolder, {_WORKERS} workers", rival[0], "images/s"),
        ("the same, again", rival[1], "images/s"),
        ("ImageFolder, first pass", rate["first"], "images/s"),
        ("ratio", rate["first"] / rival[0], "x (aim: at least 0.9)"),
        ("3 GB written to this disk, nothing else", first["writing"], "s"),
        ("first pass, decoded and not written", rate["decoded"], "images/s"),
        ("ratio", rate["decoded"] / rival[0], "x"),
        (f"ImageFolder, cached, {_WORKERS} workers", rate["cached"], "images/s"),
        ("ratio", rate["cached"] / rival[1], "x (aim: at least 10)"),
        ("peak memory, torchvision", theirs["megabytes"], "MB, all processes"),
        ("peak memory, first pass", first["megabytes"], "MB, all processes"),
        ("peak memory, cached", cached["megabytes"], "MB, all processes"),
    ]


def write_folder(root: Path, n: int = _IMAGES) -> None:
    """Write n JPEGs with the detail of photographs: noise of all scales, about 15 kB each."""
    rng = np.random.default_rng(0)
    pool = []
    for _ in range(50):
        layers = [
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(
                    (_SIZE, _SIZE), Image.Resampling.BICUBIC
                )
            )
            for n in (4, 16, 56, 112)
        ]
        pool.append(np.average(layers, axis=0, weights=(4, 2, 1, 1)))
    for number in range(n):
        first, second = rng.integers(len(pool), size=2)
        mixed = 0.5 * (pool[first] + np.roll(pool[second], number % _SIZE, axis=1))
        path = root / f"class{number % _CLASSES}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mixed.astype(np.uint8)).save(path, quality=92)


def _run(way: str, root: Path, cache: Path) -> dict[str, float]:
    """Run a way in a process of its own; note its times and the peak of what it keeps in memory."""
    said, peak = run_watched([sys.executable, "-m", __name__, way, str(root), str(cache)])
    writing, seconds = json.loads(said)
    return {"writing": writing, "seconds": seconds, "megabytes": peak}


def run_watched(command: Sequence[str]) -> tuple[str, float]:
    """Run a command; return what it prints, and the peak of what it keeps in memory [MB]."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, sum(_megabytes(pid) for pid in _family(process.pid)))
            time.sleep(_INTERVAL)
        assert process.stdout is not None
        return process.stdout.read(), peak


def _family(pid: int) -> list[int]:
    found = [pid]
    for child in found:
        try:
            found += map(int, Path(f"/proc/{child}/task/{child}/children").read_text().split())
        except OSError:  # it has ended
            continue
    return found


def _megabytes(pid: int) -> float:
    """A process's part of the memory in use; mapped files are the system's to drop."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    kept = (line for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
    return sum(int(line.split()[1]) for line in kept) / 1024


def _batches(way: str, root: Path, cache: Path) -> Iterable[object]:
    if way.startswith("theirs"):
        # Whole numbers, as ours: their usual floats are four times as much to hand over.
        return DataLoader(
            datasets.ImageFolder(str(root), transform=PILToTensor()),
            batch_size=_BATCH,
            shuffle=True,
            num_workers=_WORKERS,
        )
    dataset = ImageFolder(root, image_size=_SIZE, val_share=0.0, test_share=0.0, cache_dir=cache)
    if way == "decoded":
        dataset.describe()
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            np.save(file, np.zeros(1, np.uint8))
            file.flush()
            return list(dataset.render(np.arange(_IMAGES), _Forget(Path(file.name))))
    module = LabelledDataModule(dataset, batch_size=_BATCH, num_workers=_WORKERS)
    module.prepare_data()
    module.setup("fit")
    return module.train_dataloader()


class _Forget(PixelWriter):
    """Writes nothing."""

    def __call__(self, rows: object, images: object) -> None:
        pass


def _write(path: Path, n_bytes: int) -> None:
    block = bytes(1 << 22)
    with path.open("wb") as file:
        for _ in range(n_bytes // len(block)):
            file.write(block)
    path.unlink()


def main() -> None:
    """Go once through all images one way, in random order; print the seconds.

    Those of writing as much as the cache come first: on a virtual machine whose free memory goes
    back to its host, the system's part in it can take as long as all else. Where it is about
    later epochs, one goes before the clock starts.
    """
    way, root, cache = sys.argv[1:]
    start = time.perf_counter()
    _write(Path(root).with_name("written"), _IMAGES * 3 * _SIZE**2)
    writing, start = time.perf_counter() - start, time.perf_counter()
    batches = _batches(way, Path(root), Path(cache))
    if way in ("theirs again", "cached"):
        for _ in batches:
            pass
        start = time.perf_counter()
    for _ in batches:
        pass
    print(json.dumps([writing, time.perf_counter() - start]))


if __name__ == "__main__":
    main()
