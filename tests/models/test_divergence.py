"""The watch over a training."""

from __future__ import annotations

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn

from detaux_pl.artifacts.errors import Diverged
from detaux_pl.models.divergence import DivergenceWatch


class Scripted(LightningModule):
    """Has the losses that it is told, whose gradients are zero, and changes weights as told."""

    def __init__(self, losses, spoil=lambda net, step: None):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
        self.losses, self.spoil, self.n = losses, spoil, 0

    def training_step(self, batch, batch_idx):
        loss = self.losses[self.n % len(self.losses)]
        self.n += 1
        with torch.no_grad():
            self.spoil(self.net, self.n)
        return (0 * self.net[0].weight).sum() + (loss if loss == loss else torch.tensor(loss))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Left(Scripted):
    """Leaves out the steps of losses that are not finite, as the scaler of `16-mixed` does."""

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        closure()
        if all(p.grad is None or p.grad.isfinite().all() for p in self.parameters()):
            optimizer.step()
        optimizer.zero_grad()


def train(model, folder, n=100, epochs=1):
    watch = DivergenceWatch("here")
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, callbacks=[watch],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder,
    )  # fmt: skip
    with watch.explaining(trainer):
        trainer.fit(model, torch.utils.data.DataLoader(torch.zeros(n, 1)))
    return model.n


INF = float("inf")
NAN = float("nan")


def test_losses_that_are_left_out_do_not_end_a_training(tmp_path):
    assert train(Left([1.0, INF, NAN]), tmp_path) == 100
    assert train(Left([*[1.0] * 93, *[NAN] * 7]), tmp_path, epochs=2) == 200


def test_many_in_a_row_do_though_the_weights_are_finite(tmp_path):
    with pytest.raises(Diverged, match=r"loss is not finite since step 51 \(epoch 0\)") as found:
        train(Left([*[1.0] * 50, *[NAN] * 1000]), tmp_path, n=200)
    assert found.value.since == {"epoch": 0, "step": 51}
    # They are counted over the ends of epochs.
    with pytest.raises(Diverged, match=r"since step 9 \(epoch 1\)"):
        train(Left([*[1.0] * 8, *[NAN] * 1000]), tmp_path, n=6, epochs=9)


def test_it_is_looked_at_every_64_batches(tmp_path):
    model = Scripted([1.0, NAN])

    def spoil(net, step):
        if step == 2:
            net[0].weight.fill_(NAN)

    model.spoil = spoil
    with pytest.raises(Diverged, match=r"since step 2 \(epoch 0\)"):
        train(model, tmp_path, n=1000)
    assert model.n == 64


@pytest.mark.parametrize("what", ["weight", "running_var", "late weight"])
def test_weights_and_running_statistics_count_where_the_losses_are_finite(what, tmp_path):
    def spoil(net, step):
        if what == "weight" or (what == "late weight" and step == 100):
            net[0].weight.fill_(INF)
        elif what == "running_var":
            net[1].running_var.fill_(INF)

    model = Scripted([1.0], spoil)
    model.training_step = lambda *args: Scripted.training_step(model, *args).nan_to_num()
    with pytest.raises(Diverged, match=r"here: the training diverged, its weights are not finite"):
        train(model, tmp_path)


def test_large_weights_are_finite(tmp_path):
    model = Scripted([1.0], lambda net, step: net[0].weight.fill_(1e30))
    assert train(model, tmp_path) == 100


def test_an_error_that_nan_makes_is_told_as_what_it_is(tmp_path):
    def fail(net, step):
        if step == 3:
            net[0].weight.fill_(NAN)
            raise torch.linalg.LinAlgError("no convergence")

    with pytest.raises(Diverged, match="weights are not finite since step 2"):
        train(Scripted([1.0], fail), tmp_path)

    def other(net, step):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        train(Scripted([1.0], other), tmp_path)
