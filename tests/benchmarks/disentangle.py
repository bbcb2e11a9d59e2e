"""Speed of the disentangler: the projector stack, and a training step by its losses."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.losses.schedule import Betas
from detaux_pl.models.projectors import ProjectorStack

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
        (f"projector stack, k = {k}, d = {d}", 1e3 * statistics.median(stacked), "ms"),
        ("loop of nn.Sequential", 1e3 * statistics.median(looped), "ms"),
        ("ratio", ratio(looped, stacked), "x faster"),
    ]


def _steps(size: int) -> list[tuple[str, float, str]]:
    model = ProductManifoldAutoencoder(image_shape=(3, size, size))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.rand(2, _PAIRS, 3, size, size)
    same = torch.arange(_PAIRS) % 2 == 0

    def step(betas: Betas) -> Callable[[], object]:
        def run() -> None:
            optimizer.zero_grad()
            model.loss_terms(images, same, betas)[0].backward()
            optimizer.step()

        return run

    plain, full = turns(step(Betas(0.0, 0.0, 0.0)), step(Betas(0.5, 1.0, 0.5)))
    return [
        (f"step of {_PAIRS} pairs, {size} px, warm-up", 1e3 * statistics.median(plain), "ms"),
        (f"step of {_PAIRS} pairs, {size} px, all losses", 1e3 * statistics.median(full), "ms"),
        ("ratio", ratio(full, plain), "x slower"),
    ]


def turns(
    *works: Callable[[], object], rounds: int = _ROUNDS, repeat: int = 10
) -> list[list[float]]:
    """Time works in turns, so that a busy moment of the machine hits them alike."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, record in zip(works, seconds, strict=True):
            work()
            start = time.perf_counter()
            for _ in range(repeat):
                work()
            record.append((time.perf_counter() - start) / repeat)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """Return the median over the rounds of how many times as long one work takes."""
    return statistics.median(one / other for one, other in zip(slow, fast, strict=True))
