"""The step of an epoch's last batches, where these do not fill it, equals the mean over them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor

from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule, PairDataModule
from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing

SHAPE = (3, 16, 16)


def _gradients(model: LightningModule, data: Any, **settings: Any) -> list[Tensor]:
    """The gradient of every step of an epoch of five batches, in which the weights hardly move."""
    found: list[Tensor] = []

    def note(_: Trainer, model: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        found.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )

    trainer = Trainer(
        accelerator="cpu", max_epochs=1, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[LambdaCallback(on_before_optimizer_step=note)], **settings,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return found


@pytest.mark.parametrize("kind", ["multitask", "disentangle"])
@pytest.mark.parametrize("k", [2, 3, 8])
def test_the_last_step_is_by_the_mean_of_its_batches(
    monkeypatch: pytest.MonkeyPatch, kind: str, k: int
):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    scenes = DigitScenes(n_train=40, n_val=8, n_test=8, n_locations=4)

    def gradients(**settings: Any) -> list[Tensor]:
        torch.manual_seed(0)
        if kind == "multitask":
            data = LabelledDataModule(scenes, auxiliary="location", batch_size=8)
            return _gradients(
                HardParameterSharing(SHAPE, (10, 4), "small_convnet", lr=1e-12), data, **settings
            )
        pairs = PairDataModule(scenes, batch_size=8)
        return _gradients(ProductManifoldAutoencoder(SHAPE, 3, 4, lr=1e-12), pairs, **settings)

    single = gradients()
    assert len(single) == 5
    windows = [single[begun : begun + k] for begun in range(0, 5, k)]
    steps = gradients(accumulate_grad_batches=k)
    assert len(steps) == len(windows)
    for step, window in zip(steps, windows, strict=True):
        torch.testing.assert_close(step, torch.stack(window).mean(0), rtol=1e-4, atol=1e-6)
