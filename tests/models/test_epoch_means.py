"""Means over an epoch, against plain ones."""

import pytest
import torch
from lightning import Callback, Trainer
from torch.utils.data import DataLoader

from detaux_pl.models.epoch_means import EpochMeans


class Model(EpochMeans):
    """Logs the items of a batch, `odd` in every second batch alone."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.kind = dtype

    def training_step(self, batch, batch_idx):
        value = batch.mean().to(self.kind)
        odd = {"odd": value} if batch_idx % 2 else {}
        self.log_means({"mean": value, **odd}, len(batch))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Record(Callback):
    def __init__(self):
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append(dict(trainer.callback_metrics))


def fit(model, items, batch_size, tmp_path, **settings):
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        **{"max_epochs": 2, **settings},
    )  # fmt: skip
    trainer.fit(model, DataLoader(items, batch_size))
    return trainer.callback_metrics


def test_batches_weigh_by_their_size_and_epochs_begin_anew(tmp_path):
    items, record = torch.arange(10.0) ** 2, Record()
    logged = fit(Model(), items, 4, tmp_path, callbacks=[record])  # batches of 4, 4 and 2
    assert logged["mean"].item() == pytest.approx(items.mean().item())
    assert logged["odd"].item() == pytest.approx(items[4:8].mean().item())
    first, second = record.seen  # known to callbacks at the end of each epoch
    assert first == second == logged


def test_an_epoch_that_ends_early_is_logged(tmp_path):
    items = torch.arange(10.0)
    logged = fit(Model(), items, 2, tmp_path, max_steps=3)
    assert logged["mean"].item() == pytest.approx(items[:6].mean().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_sums_are_wide(tmp_path, dtype):
    items = torch.full((40_000,), 2.5)  # their sum is no float16, and no step of a bfloat16's
    logged = fit(Model(dtype), items, 100, tmp_path, max_epochs=1)
    assert logged["mean"].item() == 2.5
