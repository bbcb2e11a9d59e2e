"""Speed of the disentangler: the projector stack, and a training step by its losses."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.losses.schedule import Betas
from detaux_pl.models.projectors import ProjectorStack
from tests.benchmarks.official_step import OfficialStep

_ROUNDS = 7
_PAIRS = 32


def measure() -> list[tuple[str, float, str]]:
    """Return name, value and unit of each figure; what is compared takes turns."""
    return [*_projectors(), *_steps(16), *_steps(64)]


def _projectors(k: int = 10, d: int = 10) -> list[tuple[str, float, str]]:
    stack = ProjectorStack(k, d)
    loop = nn.ModuleList(
        nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d)) for _ in range(k)
    )
    latent = torch.randn(2 * _PAIRS, d, requires_grad=True)

    def run(project: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: project().square().sum().backward()

    looped, stacked = turns(
        run(lambda: torch.stack([projector(latent) for projector in loop])),
        run(lambda: stack(latent)),
    )
    return [
        (f"projector stack, k = {k}, d = {d}", 1e3 * median(stacked), "ms"),
        ("loop of nn.Sequential", 1e3 * median(looped), "ms"),
        ("ratio", ratio(looped, stacked), "x faster"),
    ]


def _steps(size: int) -> list[tuple[str, float, str]]:
    """Times of the step, and its ratio to the official one from the same weights."""
    images = torch.rand(2, _PAIRS, 3, size, size)
    last = images.flatten(0, 1).permute(0, 2, 3, 1).contiguous()  # as the official code has them
    same = torch.arange(_PAIRS) % 2 == 0
    figures = []
    for name, betas in (("warm-up", Betas(0.0, 0.0, 0.0)), ("all losses", Betas(0.5, 1.0, 0.5))):
        model = ProductManifoldAutoencoder(image_shape=(3, size, size))
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)

        def step(
            model: ProductManifoldAutoencoder = model,
            optimizer: torch.optim.Optimizer = optimizer,
            betas: Betas = betas,
        ) -> None:
            optimizer.zero_grad()
            model.loss_terms(images, same, betas)[0].backward()
            optimizer.step()

        official = partial(OfficialStep(model), last, same, betas)
        theirs, ours = turns(official, step, repeat=3, clock=time.process_time)
        figures += [
            (f"official step of {_PAIRS} pairs, {size} px, {name}", 1e3 * median(theirs), "ms"),
            ("our step", 1e3 * median(ours), "ms"),
            ("ratio", ratio(ours, theirs), "x its processor time (aim: at most 0.8)"),
        ]
    return figures


def turns(
    *works: Callable[[], object],
    rounds: int = _ROUNDS,
    repeat: int = 10,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Time works in turns, so that a busy moment of the machine hits them alike."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, record in zip(works, seconds, strict=True):
            work()
            start = clock()
            for _ in range(repeat):
                work()
            record.append((clock() - start) / repeat)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """Return the median over the rounds of how many times as long one work takes."""
    return median(one / other for one, other in zip(slow, fast, strict=True))
