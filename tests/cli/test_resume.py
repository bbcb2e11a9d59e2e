"""A training that is stopped in the middle of an epoch goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from detaux_pl.cli.main import main
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule, PairDataModule, ViewDataModule
from detaux_pl.data.noise import SaltPepper
from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.training import stage_job
from detaux_pl.training.snapshot import Snapshot
from tests.data.lazy import LazyScenes

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*suggested max number of worker.*"),
]

STEPS = 6
"""Batches of an epoch."""


class Record(Callback):
    """Keep the rows of every training batch, and a checkpoint of every second step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[list[Any]] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.rows.append([trainer.current_epoch, batch_idx, batch.rows.tolist()])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step % 2 == 0 and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer, module):
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")


def _data(kind: type, workers: int = 0) -> LightningDataModule:
    kind_of_scenes = LazyScenes if workers else DigitScenes
    scenes = kind_of_scenes(n_train=50, n_val=20, n_test=8, n_locations=4)
    more = {"auxiliary": "location"} if kind is LabelledDataModule else {}
    noise = SaltPepper(0.1, redraw=True)
    return kind(scenes, noise=noise, batch_size=8, num_workers=workers, seed=3, **more)


def _manifold() -> LightningModule:
    return ProductManifoldAutoencoder((3, 16, 16), dim=4, n_subspaces=3, lr_schedule="cosine")


def _classifier() -> LightningModule:
    return HardParameterSharing((3, 16, 16), (10, 4), "small_convnet", lr_schedule="cosine")


def _train(
    folder: Path, model: LightningModule, data: LightningDataModule, resume: Path | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """Train 3 epochs; return the rows and the end."""
    record = Record(folder)
    trainer = Trainer(
        accelerator="cpu", max_epochs=3, callbacks=[record], logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    assert trainer.global_step == 3 * STEPS
    end = {**model.state_dict(), **_flat(trainer.optimizers[0].state_dict())}
    return record.rows, {name: value.clone() for name, value in end.items()}


def _flat(optimizer: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, state in optimizer["state"].items()
        for name, value in state.items()
    }


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    ("build", "kind"), [(_manifold, PairDataModule), (_classifier, LabelledDataModule)]
)
@pytest.mark.parametrize("step", [2, 8, 10, 16])
def test_resumed_in_mid_epoch_is_bitwise_undisturbed(tmp_path: Path, build, kind, step: int):
    seed_everything(1)
    rows, end = _train(tmp_path, build(), _data(kind))
    seed_everything(1)
    torch.rand(7)  # whatever a new process has drawn before
    again, resumed = _train(tmp_path / "b", build(), _data(kind), tmp_path / f"step={step}.ckpt")
    assert again == rows[step:]
    assert _same(resumed, end)


def test_resumed_twice(tmp_path: Path):
    seed_everything(1)
    rows, end = _train(tmp_path, _manifold(), _data(PairDataModule))
    _train(tmp_path / "b", _manifold(), _data(PairDataModule), tmp_path / "step=2.ckpt")
    again, resumed = _train(
        tmp_path / "c", _manifold(), _data(PairDataModule), tmp_path / "b" / "step=4.ckpt"
    )
    assert again == rows[4:]
    assert _same(resumed, end)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_give_the_same_sequence_and_resume_it(tmp_path: Path, workers: int):
    seed_everything(1)
    rows, end = _train(tmp_path, _classifier(), _data(LabelledDataModule))
    seed_everything(1)
    some, with_workers = _train(tmp_path / "b", _classifier(), _data(LabelledDataModule, workers))
    assert some == rows
    assert _same(with_workers, end)
    # Workers have read ahead of the checkpoint by then; 12 is the end of an epoch.
    for step in (8, 12):
        seed_everything(1)
        again, resumed = _train(
            tmp_path / f"c{step}", _classifier(), _data(LabelledDataModule, workers),
            tmp_path / "b" / f"step={step}.ckpt",
        )  # fmt: skip
        assert again == rows[step:]
        assert _same(resumed, end)


class _TwoViews(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3 * 16 * 16))

    def training_step(self, batch, batch_idx):
        return (batch.images.flatten(2) @ self.weight - 1).square().mean()

    def validation_step(self, batch, batch_idx):
        assert batch.images.shape == (20, 3, 16, 16)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def test_views_are_drawn_again(tmp_path: Path):
    rows, end = _train(tmp_path, _TwoViews(), _data(ViewDataModule))
    again, resumed = _train(
        tmp_path / "b", _TwoViews(), _data(ViewDataModule), tmp_path / "step=10.ckpt"
    )
    assert again == rows[10:]
    assert _same(resumed, end)


class StopAt(Callback):
    """Die after a step of training, as often as the class is told to."""

    step: int | None = None

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == StopAt.step:
            raise RuntimeError("killed")


@pytest.mark.parametrize("stage", ["disentangle", "multitask"])
def test_a_killed_stage_goes_on_from_its_snapshot(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, stage: str
):
    arm = "multitask/hard_parameter_sharing/seed0"
    name = "disentangle" if stage == "disentangle" else arm
    config = str(finished_run / name / "config.yaml")

    def fit(folder: Path) -> dict[str, Any]:
        words = ["--run_dir", str(folder), f"--trainer.callbacks+={__name__}.StopAt"]
        if stage == "multitask":
            words.append(f"--data.labels={finished_run / 'cluster'}")
        assert main([stage, "fit", "--config", config, *words]) == 0
        (kept,) = (folder / name / "checkpoints").iterdir()
        assert kept.stem == {"disentangle": "last", "multitask": "best"}[stage]
        saved: dict[str, Any] = torch.load(kept, weights_only=True)
        assert "optimizer_states" not in saved
        return saved

    whole = fit(tmp_path / "whole")
    monkeypatch.setattr(stage_job, "SNAPSHOT_SECONDS", 0.0)
    killed = tmp_path / "killed"
    for step in (3, 12):
        monkeypatch.setattr(StopAt, "step", step)
        with pytest.raises(RuntimeError, match="killed"):
            fit(killed)
        last = torch.load(killed / name / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] in (step - 1, step)  # the order of the callbacks
    monkeypatch.setattr(StopAt, "step", None)
    end = fit(killed)
    assert end["global_step"] == whole["global_step"]
    assert _same(end["state_dict"], whole["state_dict"])


def test_no_snapshot_of_short_epochs(finished_run: Path):
    found = {path.name for path in finished_run.glob("*/checkpoints/*")}
    assert found == {"last.ckpt"}


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 2}, [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]),
        ({"max_epochs": 2, "val_check_interval": 0.5}, [1, 2, 4, 5, 7, 8, 10, 11]),
        (
            {"max_epochs": 2, "val_check_interval": 4, "check_val_every_n_epoch": None},
            [1, 2, 3, 5, 7, 9, 10, 11],
        ),
        ({"max_steps": 3, "max_epochs": -1}, [1, 2]),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, [1, 2, 4, 5]),
    ],
)
def test_no_snapshot_where_something_follows_that_would_be_lost(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    steps: list[int],
):
    saved = []
    monkeypatch.setattr(
        Trainer, "save_checkpoint", lambda self, path: saved.append(self.global_step)
    )
    trainer = Trainer(
        accelerator="cpu", callbacks=[Snapshot(tmp_path / "last.ckpt", 0.0)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False, **settings,
    )  # fmt: skip
    trainer.fit(_classifier(), datamodule=_data(LabelledDataModule))
    assert saved == steps
