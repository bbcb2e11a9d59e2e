"""Two ranks train as one on the joined batch: each architecture by each weighting, each remedy."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.data.batch import Batch
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.group_dro import GroupDRO
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.multitask.remedy import Remedy
from detaux_pl.multitask.weighting.base import Weighting
from detaux_pl.multitask.weighting.gramian import GramianWeighting
from detaux_pl.settings.build import constructor_defaults
from tests.found import classes, variants

WORLD, STEPS, BATCH, SHAPE = 2, 2, 4, (3, 8, 8)
SIZES = {2: (4, 3), 3: (4, 3, 5)}


def architectures() -> list[type[MultitaskModel]]:
    """Those that can be given a weighting, unlike models that have one of their own."""
    return [each for each in classes(MultitaskModel) if "weighting" in constructor_defaults(each)]


def weightings(n_tasks: int) -> Iterator[tuple[str, Weighting]]:
    """Every class that takes a number of tasks, as it is and by each kind of Gramian."""
    for cls in classes(Weighting):
        for k, (name, weighting) in enumerate(variants(Weighting, cls).items()):
            if k == 0 or "gramian=" in name:  # what else there is to choose, ranks have no part in
                with suppress(ValueError):
                    weighting.setup(n_tasks)
                    yield name, weighting


class Step(nn.Module):
    """What DDP wraps: its forward is the training step."""

    def __init__(self, model: MultitaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.model.training_step(batch, 0)


def train(rank: int, world: int) -> dict[str, dict[str, torch.Tensor]]:
    """What each combination is after the steps of a rank that has its share of the batch."""
    own = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    found = {}
    for n_tasks, sizes in SIZES.items():
        generator = torch.Generator().manual_seed(n_tasks)
        batches = []
        for _ in range(STEPS):
            images = torch.rand(BATCH, *SHAPE, generator=generator, dtype=torch.float64)
            targets = torch.stack(
                [torch.randint(size, (BATCH,), generator=generator) for size in sizes], 1
            )
            targets[1, 1] = IGNORED
            batches.append(Batch(images[own], targets[own], torch.arange(BATCH)[own]))
        found |= _of_unlike_losses(rank, world, n_tasks)
        for architecture in architectures():
            untrained = _build(architecture, sizes)
            for name, weighting in weightings(n_tasks):
                # What a third task changes, it changes in the architecture or in the weighting.
                if n_tasks > 2 and architecture is not HardParameterSharing and "Equal" not in name:
                    continue
                model = copy.deepcopy(untrained)
                weighting.setup(n_tasks)
                model.weighting = weighting.double()
                found[f"{architecture.__name__}, {n_tasks} tasks, {name}"] = _steps(
                    model, batches, world
                )
        for remedy in classes(Remedy):
            model = _build(remedy, sizes)
            found[f"{remedy.__name__}, {n_tasks} tasks"] = _steps(model, batches, world)
            if isinstance(model, GroupDRO):
                found[f"group weights, {n_tasks} tasks"] = {"weights": model.group_weights}
    return found


def _steps(model: MultitaskModel, batches: list[Batch], world: int) -> dict[str, torch.Tensor]:
    """Weights of the tasks in each step, and what the model is after the last."""
    module = Step(model)
    wrapped = DistributedDataParallel(module) if world > 1 else module
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    logged = []
    for batch in batches:
        optimizer.zero_grad()
        wrapped(batch).backward()
        for parameter, value in model.named_parameters():
            assert value.grad is not None, (type(model), parameter)
        optimizer.step()
        logged.append(model.weighting.weights.detach())
        model.weighting.end_epoch()
    summaries = {key: _summary(value) for key, value in model.state_dict().items()}
    return {"weights": torch.stack(logged), **summaries}


def _of_unlike_losses(rank: int, world: int, n_tasks: int) -> dict[str, dict[str, torch.Tensor]]:
    """Weights where each rank has the largest loss in another task; one rank has their mean."""
    every = torch.stack([torch.arange(1.0, n_tasks + 1).roll(k).double() for k in range(WORLD)])
    losses = every[rank] if world > 1 else every.mean(dim=0)
    found = {}
    for name, weighting in weightings(n_tasks):
        if not isinstance(weighting, GramianWeighting):
            weighting.setup(n_tasks)
            weighting.double()
            for _ in range(3):  # epochs, of which some remember two
                weighting(losses.clone().requires_grad_())
                weighting.end_epoch()
            found[f"unlike losses, {n_tasks} tasks, {name}"] = {
                "weights": weighting.weights.detach()
            }
    return found


def _summary(tensor: torch.Tensor) -> torch.Tensor:
    """Two numbers that tell tensors apart, as all of them would be gigabytes."""
    values = tensor.double().flatten()
    return torch.stack([values.norm(), values @ _direction(len(values))])


@cache
def _direction(n: int) -> torch.Tensor:
    return torch.arange(n, dtype=torch.float64).cos()


def _build(architecture: type[MultitaskModel], sizes: tuple[int, ...]) -> MultitaskModel:
    settings = {
        "image_shape": SHAPE,
        "task_sizes": sizes,
        "backbone": "small_convnet",
        "hidden": 16,
        "dropout": 0.0,
    }
    taken = constructor_defaults(architecture)
    torch.manual_seed(0)
    model = architecture(**{name: value for name, value in settings.items() if name in taken})
    model.log_means = lambda *args, **kwargs: None
    # Batch norm is of a rank's batch; all else is the same in both modes without dropout.
    return model.double().eval()


def _run_rank(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=WORLD
    )
    torch.save(train(rank, WORLD), folder / f"{rank}.pt")
    distributed.barrier()
    # Without the interpreter's own end, in which a thread presumably aborted one run of some 170.
    os._exit(0)


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_train_as_one_on_the_joined_batch(tmp_path: Path):
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
        expected = train(0, 1)
        assert [process.wait(timeout=240) for process in ranks] == [0] * WORLD
    finally:
        for process in ranks:
            process.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    assert expected.keys() == first.keys() == second.keys()
    assert any("HardParameterSharing, 3 tasks" in name for name in expected)
    for weighting, _ in weightings(3):
        # Otherwise it would be equal weighting that is compared; DWA has it for two epochs.
        used = [state["weights"] for name, state in expected.items() if name.endswith(weighting)]
        moved = any((weights != 1).any() for weights in used)
        assert moved or weighting in ("EqualWeighting", "DWAWeighting"), weighting
    groups = expected["group weights, 2 tasks"]["weights"]
    assert groups.unique().numel() > BATCH  # of the cells that were in a batch, each its own
    for name, state in expected.items():
        assert state["weights"].isfinite().all(), name
        for key, value in state.items():
            assert torch.equal(first[name][key], second[name][key]), (name, key)
            torch.testing.assert_close(
                first[name][key], value, rtol=1e-9, atol=1e-12, msg=f"{name}: {key}"
            )


if __name__ == "__main__":
    _run_rank(int(sys.argv[1]), Path(sys.argv[2]))
