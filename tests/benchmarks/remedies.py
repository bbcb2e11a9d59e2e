"""What remedies for groups cost: a training step beside the plain one, and what comes after it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from detaux_pl.data.balance import draw_balanced
from detaux_pl.data.batch import Batch
from detaux_pl.multitask.balanced_sampling import BalancedSampling
from detaux_pl.multitask.class_scaling import ClassScaling, choose_scales
from detaux_pl.multitask.group_adversary import GroupAdversary
from detaux_pl.multitask.group_dro import GroupDRO
from detaux_pl.multitask.joint_labels import JointLabels
from detaux_pl.multitask.last_layer_retraining import LastLayerRetraining, fit_balanced
from detaux_pl.multitask.one_backbone import OneBackbone
from detaux_pl.multitask.single_task import SingleTask
from tests.benchmarks.disentangle import ratio, turns

_SHAPE, _SIZES, _BATCH = (3, 64, 64), (10, 8), 32
_REMEDIES = (
    BalancedSampling, GroupDRO, JointLabels, GroupAdversary, ClassScaling, LastLayerRetraining
)  # fmt: skip


def measure() -> list[tuple[str, float, str]]:
    """Return name, value and unit of each figure; what is compared takes turns."""
    plain, *others = turns(*map(_step, (SingleTask, *_REMEDIES)), rounds=5, repeat=1)
    rows = [(f"step of {_BATCH} images, SingleTask", 1e3 * statistics.median(plain), "ms")]
    for cls, seconds in zip(_REMEDIES, others, strict=True):
        rows.append((f"with {cls.__name__}", ratio(seconds, plain), "x as long"))
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(size, size=100_000) for size in (100, 10)], axis=1)
    cells = labels @ [10, 1]
    drawn = _seconds(lambda: draw_balanced(labels, np.arange(100_000), rng))
    rows.append(("balanced order of 100,000 images in 1,000 cells", drawn, "s"))
    logits = rng.normal(size=(10_000, 100)) + 2 * np.eye(100)[labels[:10_000, 0]]
    scaled = _seconds(lambda: choose_scales(logits, labels[:10_000, 0], cells[:10_000], 1000))
    rows.append(("scales of 100 classes by 10,000 images in 1,000 cells", scaled, "s"))
    features = rng.normal(size=(10_000, 512)) + np.eye(512)[labels[:10_000, 1]]
    few = 4 * labels[:10_000, 1] + labels[:10_000, 0] % 4
    again = _seconds(lambda: fit_balanced(features, labels[:10_000, 1], few, 10))
    rows.append(("last layer of 512 by 10,000 images in 40 cells", again, "s"))
    return rows


def _step(cls: type[OneBackbone]) -> Callable[[], object]:
    torch.manual_seed(0)
    model = cls(_SHAPE, _SIZES, "resnet18")
    # Without a trainer there is nowhere to log to.
    model.log_means = lambda *args, **kwargs: None
    optimizer = torch.optim.AdamW(model.parameters())
    targets = torch.stack([torch.randint(size, (_BATCH,)) for size in _SIZES], 1)
    batch = Batch(torch.rand(_BATCH, *_SHAPE), targets, torch.arange(_BATCH))

    def run() -> None:
        optimizer.zero_grad()
        model.training_step(batch, 0).backward()
        optimizer.step()

    return run


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
