"""Speed of the way from a data set to batches of pairs, against one that goes item by item."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.datasets.synthetic_shapes3d import SyntheticShapes3D
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.modules import PairDataModule

_BATCH = 32
_SECONDS = 2.0
_ROUNDS = 3


def measure() -> list[tuple[str, float, str]]:
    """Return name, value and unit of each figure; both ways take turns.

    On one thread, as in a worker process: for arrays as small as these a second one gains little
    where it is free, and costs a factor of 100 where another process is using it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure()
    finally:
        torch.set_num_threads(threads)


def _measure() -> list[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as folder:
        shapes = SyntheticShapes3D(cache_dir=Path(folder))
        start = time.perf_counter()
        shapes.prepare()
        build = time.perf_counter() - start
        return [
            *_compare("DigitScenes 16", DigitScenes()),
            *_compare("SyntheticShapes3D 64", shapes),
            ("SyntheticShapes3D 64, images", _images_per_second(shapes), "images/s"),
            ("SyntheticShapes3D 64, geometry", build, "s, once per machine"),
        ]


class _PerItemPairs(Dataset[Any]):
    """Pairs as a plain map-style data set gives them: a search of all labels for every item."""

    def __init__(self, dataset: FactorDataset) -> None:
        self.dataset = dataset
        self.rows = dataset.rows("train")
        self.labels = dataset.labels[self.rows]
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, int, int]:
        label = self.labels[item]
        same = self.rng.random() < 0.5
        partner = self.rng.choice(np.where((self.labels == label) == same)[0])
        images = [
            self.dataset.images(torch.tensor([self.rows[place]]))[0].float() / 255
            for place in (item, partner)
        ]
        return *images, label, self.labels[partner]


def _compare(name: str, dataset: FactorDataset) -> list[tuple[str, float, str]]:
    module = PairDataModule(dataset, batch_size=_BATCH)
    module.prepare_data()
    module.setup("fit")
    per_item = DataLoader(_PerItemPairs(dataset), batch_size=_BATCH, shuffle=True, drop_last=True)

    def batches() -> Iterator[object]:
        for batch in module.train_dataloader():
            yield module.on_after_batch_transfer(batch, 0)

    rounds = [
        (_pairs_per_second(batches), _pairs_per_second(per_item.__iter__)) for _ in range(_ROUNDS)
    ]
    ours, theirs = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    ratio = statistics.median(one / other for one, other in rounds)
    return [
        (f"{name}, pairs", ours, "pairs/s"),
        (f"{name}, pairs item by item", theirs, "pairs/s"),
        (f"{name}, ratio", ratio, "x (aim: at least 20)"),
    ]


def _pairs_per_second(epoch: Callable[[], Iterator[object]]) -> float:
    """Count pairs over whole or begun epochs; the drawing of an epoch is in the time."""
    pairs, start = 0, time.perf_counter()
    while True:
        for _ in epoch():
            pairs += _BATCH
            if (elapsed := time.perf_counter() - start) > _SECONDS:
                return pairs / elapsed


def _images_per_second(dataset: FactorDataset) -> float:
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, len(dataset), 64))
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        dataset.images(rows)
        seconds.append(time.perf_counter() - start)
    return len(rows) / statistics.median(seconds)
