"""Seconds of trying a candidate task and of refining labels, by those of one training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.cluster.candidates import Selection, propose
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.hdbscan import HDBSCAN
from detaux_pl.cluster.kmeans import KMeans
from detaux_pl.data.batch import Fold
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.data.noise import SaltPepper
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.cross_fit import CrossFit, fit_net
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.training.quiet import quiet

_SIZES = (10, 4)
_TRAINER = {"max_epochs": 20, "accelerator": "cpu", "devices": 1}


def measure() -> Iterator[tuple[str, float, str]]:
    """Yield name, value and unit of each figure."""
    quiet()
    data = LabelledDataModule(DigitScenes(n_train=600, n_locations=4), noise=SaltPepper(0.15))
    data.setup("fit")
    dataset = data.dataset
    train, rest = dataset.rows("train"), np.flatnonzero(dataset.splits != 0)
    targets = np.stack([dataset.factor("digit"), dataset.factor("location")], axis=1)
    fold = Fold(train, rest, targets)

    def training() -> None:
        fit_net(data, _build, fold, _SIZES, [0], _TRAINER)

    def cross_fit(rounds: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            fit = CrossFit(Path(folder), targets, _SIZES, train, rest, 4, rounds)
            return _seconds(lambda: [fit.fit(net, data, _build, _TRAINER) for net in fit.nets])

    # Before and after, as the machine may change meanwhile.
    alone = [_seconds(training)]
    tried, refined = cross_fit(1), cross_fit(2)
    alone.append(_seconds(training))
    one = float(np.mean(alone))
    yield "one multi-task training, 600 images of 16 px, 20 epochs", one, "s"
    yield "trying a candidate: 4 folds", tried / one, "trainings"
    yield "refining: 4 folds, 2 rounds", refined / one, "trainings"
    yield "proposing 12 candidates and their stability", _propose(dataset) / one, "trainings"


def _build(sizes: tuple[int, ...]) -> MultitaskModel:
    return HardParameterSharing((3, 16, 16), sizes, backbone="small_convnet", lr=1e-3)


def _propose(dataset: DigitScenes) -> float:
    """Seconds for codes of three free subspaces of six dimensions."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(dataset), 4, 6)).astype(np.float32)
    values[:, 1, :2] += 5 * np.stack(np.divmod(dataset.factor("location"), 2), axis=1)
    info = FactorInfo(dataset.factor_names, dataset.factor_sizes, "digit", 0)
    codes = Codes(values, dataset.ids, dataset.splits, dataset.factors, info)
    discovery = Discovery(HDBSCAN(0.05, 5), noise="nearest")
    selection = Selection([KMeans(k) for k in (2, 4, 8)])
    return _seconds(lambda: propose({"codes": codes}, discovery, selection))


def _seconds(work: object) -> float:
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start
