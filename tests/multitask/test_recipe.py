"""Mixed images and targets, smoothed labels and averaged weights against naive loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.data.batch import Batch
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.multitask.group_dro import GroupDRO
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.multitask.joint_labels import JointLabels
from detaux_pl.multitask.recipe import Recipe
from detaux_pl.multitask.single_task import SingleTask
from detaux_pl.multitask.weighting.equal import EqualWeighting

SHAPE, SIZES = (3, 16, 16), (5, 4)
Build = Callable[..., MultitaskModel]


def _batch(n: int = 12) -> Batch:
    rng = torch.Generator().manual_seed(0)
    targets = torch.stack([torch.randint(size, (n,), generator=rng) for size in SIZES], 1)
    targets[::3, 1] = IGNORED
    return Batch(torch.rand(n, *SHAPE, generator=rng), targets, torch.arange(n))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_every_image_is_of_two_by_the_share(kind: str):
    images = _batch().images
    shares = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, share = Recipe(**{kind: 1.0}).mix(images)
        before = images.roll(1, 0)
        if kind == "mixup":
            torch.testing.assert_close(mixed, share * images + (1 - share) * before)
        else:
            own = (mixed == images).all(dim=1)  # a place has all channels of one
            assert ((mixed == before).all(dim=1) | own).all()
            assert (own == own[:1]).all()
            assert own[0].float().mean().item() == pytest.approx(share, abs=1e-6)
        assert 0 <= share <= 1
        shares.add(share)
    assert len(shares) > 10


def test_both_kinds_take_turns():
    images = _batch().images
    torch.manual_seed(0)
    recipe = Recipe(mixup=1.0, cutmix=1.0)
    cut = [bool((recipe.mix(images)[0] == images).any()) for _ in range(100)]
    assert 30 < sum(cut) < 70


def _naive_targets(batch: Batch, share: float) -> list[list[list[float]]]:
    """Of each task and image, what each class has of the target."""
    tables = []
    for task, size in enumerate(SIZES):
        rows = []
        for i in range(len(batch.images)):
            row = [0.0] * size
            for image, part in ((i, share), (i - 1, 1 - share)):
                if (label := int(batch.targets[image, task])) != IGNORED:
                    row[label] += part
            rows.append(row)
        tables.append(rows)
    return tables


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_the_mixed_targets_of_all_tasks(smoothing: float):
    recipe = Recipe(mixup=1.0, smoothing=smoothing)
    model = HardParameterSharing(
        SHAPE, SIZES, "small_convnet", weighting=EqualWeighting(), hidden=8, recipe=recipe
    ).eval()
    logged: dict[str, Tensor] = {}
    model.log_means = lambda values, n: logged.update(values)  # type: ignore[method-assign]
    batch = _batch()
    torch.manual_seed(3)
    mixed, share = recipe.mix(batch.images)
    torch.manual_seed(3)
    loss = model.training_step(batch, 0)
    expected = []
    for logits, table in zip(model(mixed), _naive_targets(batch, share), strict=True):
        total = 0.0
        for row, target in zip(logits.detach().double(), table, strict=True):
            known = sum(target)  # 1, or less where a label is left out
            for k, mass in enumerate(target):
                smooth = (1 - smoothing) * mass + smoothing * known / len(target)
                total -= smooth * math.log(row.softmax(0)[k])
        expected.append(total / len(batch.images))
    for name, value in zip(("principal", "auxiliary"), expected, strict=True):
        assert logged[f"train/loss/{name}"].item() == pytest.approx(value, rel=1e-5)
    assert loss.item() == pytest.approx(sum(expected), rel=1e-5)


def test_what_mixed_targets_are_made_of():
    """The gradient of the loss by the logits says it: the softmax by the sum, less the target."""
    model = SingleTask(SHAPE, SIZES, "small_convnet", recipe=Recipe(mixup=1.0))
    batch, share = _batch(), 0.25
    model._shares = share, 1 - share
    for task, table in enumerate(_naive_targets(batch, share)):
        logits = torch.zeros(len(batch.images), SIZES[task], requires_grad=True)
        labels = batch.targets[:, task]
        both = torch.stack([labels, labels.roll(1)], 1)
        model.cross_entropy(logits, both).backward()
        assert logits.grad is not None
        wanted = torch.tensor(table)
        told = wanted.sum(1, keepdim=True) / SIZES[task] - logits.grad * len(batch.images)
        torch.testing.assert_close(told, wanted)
        known = [{share, 1 - share, 1.0, 0.0} & {round(float(each), 6)} for each in told.sum(1)]
        assert all(known)
        assert (told.abs() > 1e-6).sum(1).max() <= 2


def test_joint_labels_mix_as_the_losses_of_both():
    model = JointLabels(SHAPE, SIZES, "small_convnet", hidden=8, recipe=Recipe(cutmix=1.0)).eval()
    batch = _batch()
    features = model.represent(batch.images)
    model._shares = 0.3, 0.7
    other = batch.targets.roll(1, 0)
    both = model.task_losses(features, torch.stack([batch.targets, other], -1))
    own, theirs = (model.task_losses(features, each) for each in (batch.targets, other))
    torch.testing.assert_close(both, 0.3 * own + 0.7 * theirs)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mixup": -0.1}, "mixup is -0.1: give 0 for none, or up to 100"),
        ({"cutmix": math.nan}, "cutmix is nan"),
        ({"smoothing": 1.0}, r"smoothing is 1.0: give a share in \[0, 1\)"),
        ({"ema": 1.5}, "ema is 1.5"),
        ({"warmup": -1}, "warmup is -1"),
    ],
)
def test_numbers_outside_their_range(given: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        Recipe(**given)


def test_models_say_what_they_cannot_take():
    with pytest.raises(ValueError, match="GroupDRO weighs images by their cell"):
        GroupDRO(SHAPE, SIZES, "small_convnet", recipe=Recipe(mixup=0.2))
    with pytest.raises(ValueError, match="JointLabels does not smooth"):
        JointLabels(SHAPE, SIZES, "small_convnet", recipe=Recipe(smoothing=0.1))


# In a training

FULL = Recipe(mixup=0.5, cutmix=1.0, smoothing=0.1, ema=0.9, warmup=0.25, balance=True)
STEPS = 4
"""Batches of an epoch."""


class Weights(Callback):
    """Keep the weights after each step, and a checkpoint after the third of the first epoch."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.states: list[dict[str, Tensor]] = []
        self.rows: list[list[int]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.rows.append(batch.rows.tolist())
        self.states.append({k: v.clone() for k, v in module.state_dict().items()})
        if self.path is not None and trainer.global_step == STEPS - 1:
            trainer.save_checkpoint(self.path)


def _data(workers: int = 0, augment: Any = "strong") -> LabelledDataModule:
    scenes = DigitScenes(n_train=8 * STEPS, n_val=8, n_test=8, n_locations=4)
    return LabelledDataModule(
        scenes, auxiliary="location", augment=augment, batch_size=8, num_workers=workers, seed=3
    )


def _model(recipe: Recipe = FULL) -> HardParameterSharing:
    seed_everything(1, verbose=False)
    return HardParameterSharing(
        SHAPE, (10, 4), "small_convnet", hidden=8, lr_schedule="cosine", recipe=recipe
    )


def _fit(model: MultitaskModel, data: LabelledDataModule, path=None, resume=None) -> Weights:
    seen = Weights(path)
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[*model.averaging(), seen], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return seen


def _assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_averaged_weights_are_those_of_a_loop_and_go_on_after_a_stop(tmp_path: Path):
    path = tmp_path / "stopped.ckpt"
    model = _model()
    states = _fit(model, _data(), path).states
    average = {k: v.double() for k, v in states[0].items()}
    for n, state in enumerate(states[1:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        for name, value in state.items():
            average[name] = decay * average[name] + (1 - decay) * value.double()
        if n == STEPS - 2:
            saved = torch.load(path, weights_only=True)["state_dict"]
            for name, value in saved.items():
                if value.is_floating_point():
                    torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-6)
    end = model.state_dict()
    assert any(not torch.equal(value, states[-1][name]) for name, value in end.items())
    for name, value in end.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(value, states[-1][name])

    torch.rand(5)  # whatever a new process has drawn before
    again = _model()
    resumed = _fit(again, _data(), resume=path)
    assert len(resumed.states) == len(states) - (STEPS - 1)
    for own, other in zip(resumed.states, states[STEPS - 1 :], strict=True):
        _assert_same(own, other)
    _assert_same(again.state_dict(), end)


def test_the_warm_up_and_the_cosine():
    data, model = _data(augment=None), _model(Recipe(warmup=0.5))
    rates: list[float] = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[Rates()], logger=False, num_sanity_val_steps=0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    up = [model.lr * k / 4 for k in (1, 2, 3, 4)]
    down = [model.lr * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert rates == pytest.approx(up + down)


def test_each_class_is_as_often_trained_on():
    scenes = DigitScenes(n_train=64, n_val=8, n_test=8, n_locations=4)
    data = LabelledDataModule(scenes, auxiliary="location", batch_size=64, seed=3)
    model = SingleTask(SHAPE, (10, 4), "small_convnet", hidden=8, recipe=Recipe(balance=True))
    seen = _fit(model, data)
    for rows in seen.rows:
        counts = np.bincount(data.targets[rows][:, 0].numpy())
        assert sorted(counts) == [6] * 6 + [7] * 4
    assert seen.rows[0] != seen.rows[1]
