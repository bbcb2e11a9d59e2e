"""What architectures and weightings of the tasks cost: time and memory of a training step."""

from __future__ import annotations

import importlib
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from detaux_pl.data.batch import Batch
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.weighting.base import Weighting
from detaux_pl.multitask.weighting.dwa import DWAWeighting
from detaux_pl.multitask.weighting.equal import EqualWeighting
from detaux_pl.multitask.weighting.grad_norm import GradNormWeighting
from detaux_pl.multitask.weighting.mgda import MGDAWeighting
from detaux_pl.multitask.weighting.pcgrad import PCGradWeighting
from detaux_pl.multitask.weighting.random import RandomWeighting
from detaux_pl.multitask.weighting.torchjd import TorchJDWeighting
from detaux_pl.multitask.weighting.uncertainty import UncertaintyWeighting
from tests.benchmarks.contrastive import _megabytes as megabytes
from tests.benchmarks.disentangle import ratio, turns

_SHAPE = (3, 64, 64)
_SIZES = (10, 8)
_BATCH = 32
_ROUNDS = 5
_ARCHITECTURES = {
    "HardParameterSharing": "hard_parameter_sharing",
    "NDDR": "nddr",
    "CrossStitch": "cross_stitch",
    "MTINet": "mti_net",
}
_WEIGHTINGS: dict[str, Callable[[], Weighting]] = {
    "Uncertainty": UncertaintyWeighting,
    "DWA": DWAWeighting,
    "Random": RandomWeighting,
    "GradNorm, features": GradNormWeighting,
    "MGDA, features": MGDAWeighting,
    "UPGrad of torchjd, features": TorchJDWeighting,
    "PCGrad, features": PCGradWeighting,
    "PCGrad, parameters": lambda: PCGradWeighting("parameters"),
}
_SURGERY = "PCGrad by hand, a backward pass per task"


def measure() -> list[tuple[str, float, str]]:
    """Return name, value and unit of each figure; what is compared takes turns."""
    return [
        *_compare("HardParameterSharing, equal weights", list(_ARCHITECTURES)),
        *_compare("HardParameterSharing, equal weights", ["", *_WEIGHTINGS, _SURGERY]),
    ]


def _compare(title: str, ways: list[str]) -> list[tuple[str, float, str]]:
    """Compare training steps to the first way's."""
    first, *others = turns(*map(_step, ways), rounds=_ROUNDS, repeat=1)
    least, *peaks = map(_peak, ways)
    rows = [
        (f"step of {_BATCH} images, {title}", 1e3 * statistics.median(first), "ms"),
        ("peak memory", least, "MB"),
    ]
    for name, seconds, peak in zip(ways[1:], others, peaks, strict=True):
        rows.append((f"with {name}", ratio(seconds, first), "x as long"))
        rows.append(("peak memory", peak / least, "x as much"))
    return rows


def _step(way: str) -> Callable[[], object]:
    """A step of an architecture with equal weights, or of hard sharing with a weighting."""
    weighting = _WEIGHTINGS.get(way, EqualWeighting)()
    name = way if way in _ARCHITECTURES else "HardParameterSharing"
    module = importlib.import_module(f"detaux_pl.multitask.{_ARCHITECTURES[name]}")
    torch.manual_seed(0)
    # MTI-Net needs maps of four scales, and has a backbone of its own.
    backbone = {} if name == "MTINet" else {"backbone": "resnet18"}
    model: MultitaskModel = getattr(module, name)(
        image_shape=_SHAPE, task_sizes=_SIZES, weighting=weighting, **backbone
    )
    # Without a trainer there is nowhere to log to.
    model.log_means = lambda *args, **kwargs: None
    optimizer = torch.optim.AdamW(model.parameters())
    targets = torch.stack([torch.randint(size, (_BATCH,)) for size in _SIZES], 1)
    batch = Batch(torch.rand(_BATCH, *_SHAPE), targets, torch.arange(_BATCH))

    def run() -> None:
        optimizer.zero_grad()
        if way == _SURGERY:
            _surgery(model, batch)
        else:
            model.training_step(batch, 0).backward()
        optimizer.step()

    return run


def _surgery(model: MultitaskModel, batch: Batch) -> None:
    """PCGrad as it is usually written: the gradients themselves are projected."""
    losses = model.task_losses(model.represent(batch.images), batch.targets)
    parameters = list(model.parameters())
    rows = []
    for loss in losses.unbind():
        loss.backward(retain_graph=True)
        rows.append(torch.cat([p.grad.flatten() for p in parameters]))
        model.zero_grad()
    total = torch.zeros_like(rows[0])
    for i, row in enumerate(rows):
        projected = row.clone()
        for j in torch.randperm(len(rows)).tolist():
            inner = torch.dot(projected, rows[j])
            if j != i and inner < 0:
                projected -= inner / torch.dot(rows[j], rows[j]) * rows[j]
        total += projected
    pieces = total.split([p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


def _peak(way: str) -> float:
    """Peak memory of steps in a process of their own, above what there is after imports."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measure_peak, way).result()


def _measure_peak(way: str) -> float:
    # Not ru_maxrss: it starts with the peak of the process that started this one.
    Path("/proc/self/clear_refs").write_text("5")
    before = megabytes("VmRSS")
    run = _step(way)
    for _ in range(2):
        run()
    return megabytes("VmHWM") - before
