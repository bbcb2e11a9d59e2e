"""What a training costs, against counts by hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import nn

from detaux_pl.artifacts.files import read_json
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.multitask.base import MultitaskModel
from detaux_pl.training import cost
from detaux_pl.training.cost import CostRecord

CLASSES, SIDE, BATCH, STEPS = 10, 16, 8, 5
WIDTH = 4 * 8 * 8
CONV, NORM, HEAD, GENERATOR = 4 * 3 * 9, 2 * 4, WIDTH * CLASSES, 7 * 6


class Tiny(MultitaskModel):
    """A convolution, a head without bias, and a layer that only training would use."""

    def __init__(self, lr: float = 1e-2):
        super().__init__((CLASSES,), lr=lr)
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(WIDTH, CLASSES, bias=False)
        self.generator = nn.Linear(6, 7, bias=False)
        self.extra = 0

    def represent(self, images):
        return (self.drop(torch.relu(self.norm(self.conv(images)))).flatten(1),)

    def classify(self, features):
        return (self.head(features[0]),)

    def shared_parameters(self):
        return [*self.conv.parameters(), *self.norm.parameters()]

    def training_step(self, batch, batch_idx):
        if self.extra and batch_idx == 2:
            torch.zeros(self.extra, dtype=torch.uint8)
        return super().training_step(batch, batch_idx)


class Slow(Callback):
    """Make validation and the first epoch long."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        time.sleep(0.004 + 0.05 * (trainer.current_epoch == 0))

    def on_validation_epoch_start(self, trainer, module):
        time.sleep(0.2)


class StopAt(Callback):
    """Die after a step, with a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "killed.ckpt")
            raise RuntimeError("killed")


def _fit(
    folder: Path,
    model: MultitaskModel,
    callbacks: list[Callback],
    resume: Path | None = None,
    **settings: Any,
) -> Trainer:
    scenes = DigitScenes(n_train=BATCH * STEPS, n_val=20, n_test=8, n_locations=4)
    trainer = Trainer(**{
        "accelerator": "cpu", "max_epochs": 3, "callbacks": callbacks, "logger": False,
        "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "num_sanity_val_steps": 0,
        "use_distributed_sampler": False, "default_root_dir": folder, **settings,
    })  # fmt: skip
    data = LabelledDataModule(scenes, batch_size=BATCH, seed=3)
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return trainer


def _cost(folder: Path, model: MultitaskModel, *more: Callback, **settings: Any) -> dict[str, Any]:
    _fit(folder, model, [CostRecord(folder), *more], **settings)
    found: dict[str, Any] = read_json(folder / "cost.json")
    return found


def test_counts_by_hand(tmp_path: Path):
    model = Tiny()
    found = _cost(tmp_path, model)
    assert found["parameters"] == CONV + NORM + HEAD + GENERATOR
    assert found["inference_parameters"] == CONV + NORM + HEAD
    # Two operations per product; 8 x 8 places of the convolution.
    assert found["flops"] == 2 * 8 * 8 * CONV + 2 * HEAD
    assert found["device"] == "cpu"
    assert model.conv.training is model.training  # the mode is left alone


def test_frozen_parameters_are_stored_but_not_trained(tmp_path: Path):
    model = Tiny()
    model.conv.requires_grad_(False)
    found = _cost(tmp_path, model)
    assert found["parameters"] == NORM + HEAD + GENERATOR
    assert found["inference_parameters"] == CONV + NORM + HEAD


def test_memory_by_hand(tmp_path: Path):
    """The peak of the second step lies between what must be there and that with every temporary."""
    found = _cost(tmp_path, Tiny())
    trained = CONV + NORM + HEAD
    held = 4 * (3 * trained + GENERATOR)  # parameters and the two moments of AdamW
    images = 4 * BATCH * 3 * SIDE**2
    activations = 4 * BATCH * 4 * WIDTH  # of the convolution, norm, relu and dropout
    assert held + images + activations <= found["peak_memory"]
    assert found["peak_memory"] <= held + 4 * trained + images + 3 * activations


def test_memory_of_one_large_allocation(tmp_path: Path):
    plain = _cost(tmp_path, Tiny())["peak_memory"]
    model = Tiny()
    model.extra = 50_000_000
    more = _cost(tmp_path, model)["peak_memory"]
    # Allocated and freed before the activations of its step.
    assert model.extra < more <= model.extra + plain


def test_memory_of_a_known_sequence():
    tracker = cost._Tracker("cpu")
    first = torch.zeros(100)
    tracker.hold([first, first[3:], None, "text"])
    assert tracker.peak == 400
    with tracker:
        second = first + 1  # 800 bytes
        second.add_(1)
        third = second.view(10, 10) * 2  # 1200 bytes
        del third
        fourth = torch.ones(150)  # 1400 bytes
        del first, second
        fifth = torch.ones(100)  # 1000 bytes
    assert tracker.peak == 1400
    del fourth, fifth
    assert tracker._now == 0


def test_time_without_validation_and_without_the_first_epoch(tmp_path: Path):
    found = _cost(tmp_path, Tiny(), Slow(), val_check_interval=2, max_epochs=4)
    assert 0.004 * STEPS <= found["seconds_per_epoch"] < 0.2
    assert found["samples_per_second"] == pytest.approx(
        BATCH * STEPS / found["seconds_per_epoch"], rel=1e-3
    )
    (tmp_path / "one").mkdir()
    alone = _cost(tmp_path / "one", Tiny(), Slow(), max_epochs=1)
    assert 0.054 * STEPS <= alone["seconds_per_epoch"] < 0.054 * STEPS + 0.2


def test_a_part_of_the_data_is_an_epoch_too(tmp_path: Path):
    found = _cost(tmp_path, Tiny(), limit_train_batches=2, max_epochs=2)
    assert found["samples_per_second"] == pytest.approx(
        2 * BATCH / found["seconds_per_epoch"], rel=1e-3
    )


def test_memory_of_a_gpu_is_that_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before the next start of the clock the allocator has seen what belongs to validation."""
    peak = 0

    def reset(device):
        nonlocal peak
        peak = 100

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    record = CostRecord(tmp_path)
    record._device = torch.device("cuda")
    peak = 999
    record._go_on()
    assert record.state_dict()["memory"] == 100
    peak = 300  # in training
    record._pause()
    peak = 700  # in validation
    record._go_on()
    record._pause()
    assert record.state_dict()["memory"] == 300


def test_an_epoch_that_is_cut_short_has_no_time(tmp_path: Path):
    found = _cost(tmp_path, Tiny(), max_steps=3, max_epochs=-1)
    assert found["seconds_per_epoch"] is None
    assert found["samples_per_second"] is None
    assert found["peak_memory"] > 0


def test_the_measurement_changes_nothing(tmp_path: Path):
    ends = []
    for callbacks in ([], [CostRecord(tmp_path)]):
        seed_everything(1)
        model = Tiny()
        _fit(tmp_path, model, callbacks)
        ends.append({**model.state_dict(), "random": torch.get_rng_state()})
        ends[-1]["numpy"] = torch.tensor(np.random.random())  # noqa: NPY002
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("step", [2, STEPS, STEPS + 2])
def test_a_resumed_training_keeps_what_was_measured(tmp_path: Path, step: int):
    model = Tiny()
    model.extra = 30_000_000
    first = CostRecord(tmp_path)
    slow = Slow()
    with pytest.raises(RuntimeError, match="killed"):
        _fit(tmp_path, model, [first, slow, StopAt(step)])
    assert not (tmp_path / "cost.json").exists()
    assert not torch.utils._python_dispatch._get_current_dispatch_mode()
    before = torch.load(tmp_path / "killed.ckpt", weights_only=True)["callbacks"]["CostRecord"]
    assert len(before["epochs"]) == step // STEPS
    assert before["samples"] == step % STEPS * BATCH
    again = CostRecord(tmp_path)
    _fit(tmp_path, Tiny(), [again, Slow()], tmp_path / "killed.ckpt")
    after = again.state_dict()
    assert after["epochs"][: len(before["epochs"])] == before["epochs"]
    assert [samples for _, samples in after["epochs"]] == [BATCH * STEPS] * 3
    # The epoch that was cut has the time of both its parts.
    assert after["epochs"][step // STEPS][0] > before["seconds"] > 0 or step == STEPS
    assert after["n_tracked"] == 3 * STEPS
    assert (after["memory"] > model.extra) == (step > 2)


def test_a_training_that_was_done_already_writes_its_cost(tmp_path: Path):
    callbacks = [CostRecord(tmp_path)]
    trainer = _fit(tmp_path, Tiny(), callbacks)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    found = read_json(tmp_path / "cost.json")
    (tmp_path / "cost.json").unlink()
    _fit(tmp_path, Tiny(), [CostRecord(tmp_path)], tmp_path / "last.ckpt")
    assert read_json(tmp_path / "cost.json") == found


def test_what_cannot_be_counted_is_null(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    class Strict(Tiny):
        def forward(self, images):
            if len(images) == 1:
                raise ValueError("one image only")
            return super().forward(images)

    found = _cost(tmp_path, Strict())
    assert (found["flops"], found["inference_parameters"]) == (None, None)
    assert found["parameters"] == CONV + NORM + HEAD + GENERATOR
    assert "one image only" in caplog.text


def test_only_the_first_batches_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cost, "TRACKED_BATCHES", 2)
    model = Tiny()
    model.extra = 40_000_000  # in the third batch
    assert _cost(tmp_path, model)["peak_memory"] < model.extra
