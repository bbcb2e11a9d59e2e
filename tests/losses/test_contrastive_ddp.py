"""Two ranks have the losses, and give a layer the gradients, of one rank on the joined batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from detaux_pl.losses.gather import gather_with_gradient
from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.losses.regularizers.base import Embeddings, Regularizer
from tests.found import classes, variants

N, K, DIM, FEATURES, WORLD = 6, 3, 2, 4, 2
POSITIVES = {
    "view": [list(range(N))] * K,
    "joint": [[0, 0, 1, 2, 1, 0]] * K,
    "disjoint": [[0, 0, 1, 1, 2, 2], [0, 1, 1, 0, 0, 1], list(range(N))],
}


def regularizers() -> Iterator[Regularizer]:
    """Every kind of every class, those of later files included."""
    for cls in classes(Regularizer):
        yield from variants(Regularizer, cls).values()


def losses(rank: int, world: int) -> dict[str, list[float]]:
    """Every loss and its gradient, of a rank that has its share of N pairs."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, N, FEATURES, generator=generator, dtype=torch.float64)
    weight = torch.randn(FEATURES, K * DIM, generator=generator, dtype=torch.float64)
    own = slice(rank * N // world, (rank + 1) * N // world)
    found = {}
    for kind, labels in POSITIVES.items():
        targets = gather_with_gradient(torch.tensor(labels)[:, own], dim=1).repeat(1, 2)
        for loss in [None, *regularizers()]:
            layer = weight.clone().requires_grad_()
            slices = (features[:, own] @ layer).unflatten(2, (K, DIM))
            slices = gather_with_gradient(slices, dim=1).flatten(0, 1)
            info_max = InfoNCE(0.5, chunk_size=5)
            if loss is None:
                pairs = zip(slices.unbind(1), targets, strict=True)
                value = sum(info_max(*pair) for pair in pairs) + info_max(
                    slices.flatten(1), targets[0]
                )
            else:
                value = loss(Embeddings(slices, targets[0], targets, step=3), info_max)
            value.backward()
            name = f"{kind} {len(found)}"
            found[name] = [value.item(), *layer.grad.flatten().tolist()]
    return found


def _run_rank(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=WORLD
    )
    joined = {
        # A view of another layout than its memory's.
        str(dim): gather_with_gradient(torch.arange(6).view(3, 2).T + 10 * rank, dim).tolist()
        for dim in (0, 1)
    }
    (folder / f"{rank}.json").write_text(json.dumps([losses(rank, WORLD), joined]))
    distributed.barrier()
    # Without the interpreter's own end, in which a thread presumably aborted one run of some 170.
    os._exit(0)


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_are_one_rank_with_the_joined_batch(tmp_path: Path):
    root = Path(__file__).parents[2]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", __name__, str(rank), str(tmp_path)],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(WORLD)
    ]
    try:
        assert [process.wait(timeout=120) for process in ranks] == [0] * WORLD
    finally:
        for process in ranks:
            process.kill()
    of_ranks, joined = zip(
        *(json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)), strict=True
    )
    for of_rank in joined:
        assert of_rank["0"] == [[0, 2, 4], [1, 3, 5], [10, 12, 14], [11, 13, 15]]
        assert of_rank["1"] == [[0, 2, 4, 10, 12, 14], [1, 3, 5, 11, 13, 15]]
    expected = losses(0, 1)
    assert len(expected) == len(POSITIVES) * (1 + len(list(regularizers())))
    for name, numbers in expected.items():
        # As DDP does, which has the value of each rank and the mean of their gradients.
        values, *gradients = zip(*(of_rank[name] for of_rank in of_ranks), strict=True)
        assert any(numbers[1:]), name
        assert values == pytest.approx([numbers[0]] * WORLD, rel=1e-9), name
        mean = [sum(parts) / WORLD for parts in gradients]
        assert mean == pytest.approx(numbers[1:], rel=1e-9, abs=1e-12), name


def test_one_process_gathers_nothing():
    tensor = torch.ones(2, 3)
    assert gather_with_gradient(tensor, dim=1) is tensor


if __name__ == "__main__":
    _run_rank(int(sys.argv[1]), Path(sys.argv[2]))
