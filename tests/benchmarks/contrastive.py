"""Speed and memory of the contrastive loss, and what each regulariser adds to a training step."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detaux_pl.disentangle.contrastive import ContrastiveDisentangler
from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.losses.regularizers.base import Regularizer
from detaux_pl.losses.regularizers.hessian_penalty import HessianPenalty
from detaux_pl.losses.regularizers.info_min import InfoMin
from detaux_pl.losses.regularizers.orthogonality import Orthogonality
from detaux_pl.losses.regularizers.slice_bound import SliceBound
from tests.benchmarks.disentangle import ratio, turns

_TEMPERATURE = 0.1
_DIMS = 16
_SIZES = (128, 512, 2048, 8192)
"""Pairs; the smallest are for `NTXentLoss`, whose memory grows with their cube."""
_ROUNDS = 2
_SECONDS = 0.5
"""About how long a way runs in a round, or once where that takes longer."""
_GIGABYTES = 8
"""Memory that a way may take, beside what it has after its imports."""
_AGREE = 1e-4
_STEP_PAIRS = 256


def measure() -> list[tuple[str, float, str]]:
    """Return name, value and unit of each figure; what is compared takes turns."""
    rows, ways = [], list(_WAYS)
    for pairs in _SIZES:
        more, ways = _losses(pairs, ways)
        rows += more
    return rows + _steps()


def _plain(embeddings: Tensor, labels: Tensor) -> Tensor:
    units = F.normalize(embeddings, dim=1)
    similar = units @ units.T / _TEMPERATURE
    similar.fill_diagonal_(-torch.inf)
    return F.cross_entropy(similar, torch.arange(len(labels)).roll(len(labels) // 2))


def _ours(embeddings: Tensor, labels: Tensor) -> Tensor:
    return InfoNCE(_TEMPERATURE)(embeddings, labels)


def _nt_xent(embeddings: Tensor, labels: Tensor) -> Tensor:
    # Its import would be part of the memory of the others.
    from pytorch_metric_learning.losses import NTXentLoss

    return NTXentLoss(_TEMPERATURE)(embeddings, labels)


def _sup_con(embeddings: Tensor, labels: Tensor) -> Tensor:
    from pytorch_metric_learning.losses import SupConLoss

    return SupConLoss(_TEMPERATURE)(embeddings, labels)


# With one positive all four are the same loss.
_WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "InfoNCE": _ours,
    "plain formula, autograd": _plain,
    "metric-learning NTXentLoss": _nt_xent,
    "metric-learning SupConLoss": _sup_con,
}


class _First(NamedTuple):
    loss: float
    megabytes: float
    seconds: float


def _losses(pairs: int, ways: list[str]) -> tuple[list[tuple[str, float, str]], list[str]]:
    """Compare ways at one size, forward and backward, each in a process of its own.

    Gives the ways that had memory enough too: those that had not are out for larger sizes.
    """
    first: dict[str, _First] = {}
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pools = {
            name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in ways
        }
        # Imports take longest: all at once, and before any way is looked at.
        wait([pool.submit(_run, name, 32) for name, pool in pools.items()])
        for name, pool in pools.items():
            try:
                first[name] = pool.submit(_measure_first, name, pairs).result()
            except (MemoryError, BrokenProcessPool):
                continue
        values = [each.loss for each in first.values()]
        if max(values) - min(values) > _AGREE:
            raise RuntimeError(f"the losses of {pairs} pairs differ: {first}.")
        seconds: dict[str, list[float]] = {name: [] for name in first}
        for _ in range(_ROUNDS):
            for name, record in seconds.items():
                repeat = max(1, int(_SECONDS / first[name].seconds))
                record.append(pools[name].submit(_seconds, name, pairs, repeat).result())
    rows = []
    for name in _WAYS:
        title = f"{name}, {pairs:,} pairs"
        if name not in first:
            rows.append((title, float(_GIGABYTES), "GB are not enough"))
            continue
        rows.append((title, 1e3 * statistics.median(seconds[name]), "ms"))
        if name != "InfoNCE":
            rows.append(("ratio", ratio(seconds[name], seconds["InfoNCE"]), "x as long"))
        rows.append(("peak memory", first[name].megabytes, "MB"))
        if name != "InfoNCE":
            more = first[name].megabytes / first["InfoNCE"].megabytes
            rows.append(("ratio", more, "x as much"))
    return rows, list(first)


def _measure_first(way: str, pairs: int) -> _First:
    """Note the loss, and the peak of the memory above what there is before.

    Raises:
        MemoryError: If it takes more than is allowed.
    """
    limit = int(_megabytes("VmSize") * 10**6) + _GIGABYTES * 10**9
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Not ru_maxrss: it starts with the peak of the process that started this one.
    Path("/proc/self/clear_refs").write_text("5")
    before = _megabytes("VmRSS")
    start = time.perf_counter()
    try:
        loss = _run(way, pairs)
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise MemoryError(str(error)) from None
    return _First(loss, _megabytes("VmHWM") - before, time.perf_counter() - start)


def _seconds(way: str, pairs: int, repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        _run(way, pairs)
    return (time.perf_counter() - start) / repeat


def _run(way: str, pairs: int) -> float:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(1, pairs, _DIMS, generator=generator)
    views = views + 0.5 * torch.randn(2, pairs, _DIMS, generator=generator)
    embeddings = views.flatten(0, 1).requires_grad_()
    loss = _WAYS[way](embeddings, torch.arange(pairs).repeat(2))
    loss.backward()
    return loss.item()


def _megabytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 10**6


def _steps() -> list[tuple[str, float, str]]:
    return [
        *_compare(
            "sub_info_max",
            {
                "InfoMin, poster": InfoMin(1.0),
                "InfoMin, cross": InfoMin(1.0, variant="cross"),
                "Orthogonality": Orthogonality(1.0),
                "Orthogonality, permuted": Orthogonality(1.0, permute=True),
                "Orthogonality, own_and_positive": Orthogonality(1.0, pairs="own_and_positive"),
                "SliceBound": SliceBound(1.0),
            },
        ),
        *_compare(
            "info_max",
            {
                "HessianPenalty, gram": HessianPenalty(1.0),
                "HessianPenalty, per_sample": HessianPenalty(1.0, form="per_sample"),
            },
            objective="info_max",
            unified_head=True,
        ),
    ]


def _compare(
    title: str, regularizers: dict[str, Regularizer], **settings: object
) -> list[tuple[str, float, str]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, _STEP_PAIRS, 3, 16, 16, generator=generator)
    # Ten classes of each of two tasks: a hundred joint labels.
    targets = torch.randint(10, (1, _STEP_PAIRS, 2), generator=generator).expand(2, -1, -1)

    def step(*used: Regularizer) -> Callable[[], object]:
        model = ContrastiveDisentangler(
            (3, 16, 16), 10, "small_convnet", regularizers=list(used), **settings
        )

        def run() -> None:
            model.zero_grad()
            slices = model.encode(images.flatten(0, 1)).unflatten(0, (2, -1))
            model.loss_terms(slices, targets)[0].backward()

        return run

    none, *others = turns(step(), *map(step, regularizers.values()), rounds=5, repeat=2)
    return [
        (f"step of {_STEP_PAIRS} pairs, {title}", 1e3 * statistics.median(none), "ms"),
        *(
            (f"with {name}", ratio(seconds, none), "x as long")
            for name, seconds in zip(regularizers, others, strict=True)
        ),
    ]
