"""FactorVAE: two nets in one optimizer, none of which trains the other."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback, seed_everything
from torch import Tensor, nn

from detaux_pl.data.batch import Batch
from detaux_pl.data.modules import ImageDataModule
from detaux_pl.disentangle.factor_vae import FactorVAE
from detaux_pl.losses.permute import permute_latents

SHAPE, K = (3, 16, 16), 4


def build(**settings: object) -> FactorVAE:
    """A float64 model with a small discriminator, whose logits say something."""
    torch.manual_seed(0)
    model = FactorVAE(SHAPE, **{"latent_dim": K, **settings})
    widths = [K, *[12] * 6, 2]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    model.discriminator.layers = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        model.encoder.mean.weight.mul_(5)
        for layer in layers[::2]:
            layer.weight.mul_(2)
    model.log_losses = lambda *args, **kwargs: None
    return model.double()


def batch_of(n: int, seed: int = 1) -> Batch:
    images = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed)).double()
    return Batch(images, torch.zeros(n, 1, dtype=torch.int64), torch.arange(n))


def sample(model: FactorVAE, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means, log-variances, and latents drawn as the model's are."""
    mean, log_variance = model.posterior(images)
    noise = torch.randn(len(images), model.latent_dim, dtype=images.dtype)
    return mean, log_variance, mean + (log_variance / 2).exp() * noise


def plain_vae_loss(
    model: FactorVAE, discriminator: nn.Module, images: Tensor
) -> tuple[Tensor, Tensor]:
    """The VAE's loss, whose every sum is written out; and the latents."""
    mean, log_variance, z = sample(model, images)
    p = torch.sigmoid(model.decoder(z))
    logs = images * p.log() + (1 - images) * (1 - p).log()
    kl = (mean**2 + log_variance.exp() - log_variance - 1) / 2
    odds = [logits[0] - logits[1] for logits in discriminator(z)]
    b = len(images)
    return -logs.sum() / b + kl.sum() / b + model.gamma * sum(odds) / b, z


def plain_discriminator_loss(discriminator: nn.Module, joint: Tensor, permuted: Tensor) -> Tensor:
    sums = []
    for kind, latents in enumerate((joint, permuted)):
        lost = [-torch.log_softmax(logits, 0)[kind] for logits in discriminator(latents)]
        sums.append(sum(lost) / len(lost))
    return (sums[0] + sums[1]) / 2


def halves(z: Tensor) -> tuple[Tensor, Tensor]:
    half = math.ceil(len(z) / 2)
    return z[:half], permute_latents(z[len(z) - half :])


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("stage", ["training_step", "validation_step"])
def test_the_loss_is_the_formula_and_that_of_the_discriminator_is_beside_it(n, stage):
    model, logged = build(gamma=7.0), {}
    model.log_losses = lambda stage, total, terms, batch_size: logged.update(terms, loss=total)
    model.train(stage == "training_step")
    torch.manual_seed(3)
    getattr(model, stage)(batch_of(n))
    torch.manual_seed(3)
    loss, z = plain_vae_loss(model, model.discriminator, batch_of(n).images)
    of_discriminator = plain_discriminator_loss(model.discriminator, *halves(z))
    assert logged["loss"].item() == pytest.approx(loss.item(), rel=1e-9)
    assert logged["discriminator"].item() == pytest.approx(of_discriminator.item(), rel=1e-9)
    correlation = sum(a - b for a, b in model.discriminator(z).tolist()) / n
    assert logged["total_correlation"].item() == pytest.approx(correlation, rel=1e-9)
    assert logged["kl"].item() > 0


def test_each_loss_trains_its_own_nets():
    model = build()
    vae = [*model.encoder.parameters(), *model.decoder.parameters()]
    own = list(model.discriminator.parameters())

    model.discriminator_loss(sample(model, batch_of(6).images)[2]).backward()
    assert all(parameter.grad is None for parameter in vae)
    assert all(parameter.grad.any() for parameter in own)

    model.zero_grad()
    posterior = model.posterior(batch_of(6).images)
    latents = sample(model, batch_of(6).images)[2]
    _, terms = model.regularize(posterior, latents)
    (terms["kl"] + terms["total_correlation"]).backward()
    assert all(parameter.grad is None for parameter in own)
    assert all(parameter.grad.any() for parameter in model.encoder.parameters())


@pytest.mark.parametrize("n", [1, 5, 8])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_steps_are_those_of_two_optimizers_from_the_weights_before(optimizer, n):
    settings = {"lr": 2e-3, "discriminator_lr": 5e-3, "weight_decay": 0.1, "optimizer": optimizer}
    model = build(**settings)
    model.trainer = SimpleNamespace(gradient_clip_val=None)
    other = copy.deepcopy(model)
    used = model.configure_optimizers()
    kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
    vae = kind(
        [*other.encoder.parameters(), *other.decoder.parameters()], lr=2e-3, weight_decay=0.1
    )
    own = kind(other.discriminator.parameters(), lr=5e-3, betas=(0.5, 0.9), weight_decay=0.0)
    for step in range(3):
        batch = batch_of(n, seed=step)
        torch.manual_seed(step)
        used.zero_grad()
        model.training_step(batch).backward()
        used.step()

        torch.manual_seed(step)
        frozen = copy.deepcopy(other.discriminator).requires_grad_(False)
        loss, z = plain_vae_loss(other, frozen, batch.images)
        of_discriminator = plain_discriminator_loss(other.discriminator, *halves(z.detach()))
        vae.zero_grad()
        loss.backward()
        own.zero_grad()
        of_discriminator.backward()
        vae.step()
        own.step()
    before = dict(build(**settings).named_parameters())
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(
            dict(model.named_parameters())[name], parameter, rtol=1e-6, atol=1e-9, msg=name
        )
        assert not torch.equal(parameter, before[name]), name


class SaveAt(Callback):
    """Saves at a step in the middle of an epoch."""

    def __init__(self, step: int, path: Path) -> None:
        self.step = step
        self.path = path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_a_training_resumed_in_mid_epoch_equals_an_undisturbed_one(scenes, make_trainer, tmp_path):
    path, ends, losses = tmp_path / "step4.ckpt", [], []
    for start in (None, path):
        seed_everything(0, verbose=False)
        model = FactorVAE(SHAPE, latent_dim=K, lr=1e-3)
        data = ImageDataModule(scenes, batch_size=32, seed=3)
        callbacks = [] if start else [SaveAt(4, path)]
        trainer = make_trainer(max_epochs=3, callbacks=callbacks, num_sanity_val_steps=0)
        if start:
            torch.rand(7)  # its random state is not that of the other
        trainer.fit(model, datamodule=data, ckpt_path=start)
        ends.append(model.state_dict())
        losses.append(trainer.callback_metrics["val/loss"])
    assert trainer.global_step == 9
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name
    assert torch.equal(*losses)


def test_clipping_accumulation_and_half_precision_train_both_nets(scenes, make_trainer):
    model = FactorVAE(SHAPE, latent_dim=K)
    before = copy.deepcopy(model.state_dict())
    trainer = make_trainer(
        max_epochs=1, gradient_clip_val=1.0, accumulate_grad_batches=3, precision="bf16-mixed"
    )
    trainer.fit(model, datamodule=ImageDataModule(scenes, batch_size=16))
    assert trainer.global_step == 2
    assert [group["fused"] for group in trainer.optimizers[0].param_groups] == [False, False]
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name
        assert not torch.equal(value, before[name]), name
    assert trainer.callback_metrics["train/discriminator"] == pytest.approx(math.log(2), abs=0.1)


def test_both_groups_follow_the_schedule():
    model = build(lr=1e-3, discriminator_lr=1e-2, lr_schedule="cosine")
    model.trainer = SimpleNamespace(gradient_clip_val=None, estimated_stepping_batches=2)
    configured = model.configure_optimizers()
    used, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(3):
        rates.append([group["lr"] for group in used.param_groups])
        used.step()
        scheduler.step()
    assert [rate for pair in rates for rate in pair] == pytest.approx(
        [1e-3, 1e-2, 5e-4, 5e-3, 0.0, 0.0], abs=1e-12
    )
    assert [group["betas"] for group in used.param_groups] == [(0.9, 0.999), (0.5, 0.9)]


TRAIN = """
import hashlib, json, sys
from pathlib import Path
import torch
from lightning import Trainer, seed_everything
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import ImageDataModule
from detaux_pl.disentangle.factor_vae import FactorVAE
from tests.ranks import end_group

seed_everything(1)
scenes = DigitScenes(n_train=30, n_val=11, n_test=8, n_locations=4, n_backgrounds=4)
data = ImageDataModule(scenes, batch_size=5, eval_batch_size=4, seed=3)
model = FactorVAE((3, 16, 16), latent_dim=3, lr=1e-3)
before = {name: value.clone() for name, value in model.named_parameters()}
trainer = Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    use_distributed_sampler=False, default_root_dir=sys.argv[1],
)
trainer.fit(model, datamodule=data)
with torch.no_grad():
    mean = model.posterior(data.images(scenes.rows("val"))).mean
active = (mean.var(0, correction=0) > 0.01).sum().item()
result = {
    "weights": {
        name: hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()
        for name, value in model.named_parameters()
    },
    "still": [name for name, value in model.named_parameters() if value.equal(before[name])],
    "active": [active, trainer.callback_metrics["val/active_units"].item()],
    "loss": trainer.callback_metrics["val/loss"].item(),
    "noise": torch.rand(1).item(),
}
Path(sys.argv[1], f"{trainer.global_rank}.json").write_text(json.dumps(result))
end_group()
"""


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_train_to_the_same_weights(tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        check=False, timeout=240, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sync_dist" not in done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["weights"] == second["weights"]
    assert len(first["weights"]) > 30
    assert first["still"] == []
    assert first["active"] == second["active"]
    assert len(set(first["active"])) == 1
    assert first["loss"] == second["loss"]
    assert math.isfinite(first["loss"])
    # The ranks draw noise of their own.
    assert first["noise"] != second["noise"]
