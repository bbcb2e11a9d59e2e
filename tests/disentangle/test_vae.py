"""What the variational autoencoders have in common, and the formula of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.data.batch import Batch
from detaux_pl.data.modules import ImageDataModule
from detaux_pl.disentangle.annealed_vae import AnnealedVAE
from detaux_pl.disentangle.beta_tc_vae import BetaTCVAE
from detaux_pl.disentangle.beta_vae import BetaVAE
from detaux_pl.disentangle.bottleneck_vae import BottleneckVAE
from detaux_pl.disentangle.dip_vae import DIPVAE
from detaux_pl.disentangle.factor_vae import FactorVAE
from detaux_pl.disentangle.vae import VAE
from detaux_pl.inference.run import load
from tests.cli.conftest import fit

SHAPE, K, N = (3, 16, 16), 4, 96
Numbers = list[list[float]]


def plain_kl(mean: Numbers, log_variance: Numbers) -> float:
    pairs = [
        pair for rows in zip(mean, log_variance, strict=True) for pair in zip(*rows, strict=True)
    ]
    return sum((m**2 + math.exp(v) - v - 1) / 2 for m, v in pairs) / len(mean)


def plain_covariance(mean: Numbers, k: int, l: int) -> float:  # noqa: E741
    b = len(mean)
    centre = [sum(row[i] for row in mean) / b for i in range(K)]
    return sum((row[k] - centre[k]) * (row[l] - centre[l]) for row in mean) / b


def plain_dip(mean: Numbers, log_variance: Numbers, variant: str, off: float, on: float) -> float:
    total = sum(2 * off * plain_covariance(mean, *pair) ** 2 for pair in combinations(range(K), 2))
    for k in range(K):
        inner = sum(math.exp(row[k]) for row in log_variance) / len(mean) if variant == "ii" else 0
        total += on * (plain_covariance(mean, k, k) + inner - 1) ** 2
    return total


def plain_tc(mean: Numbers, log_variance: Numbers, z: Numbers, n: int, estimator: str) -> float:
    b, total = len(mean), 0.0
    for j in range(b):
        joint, marginals = 0.0, [0.0] * K
        for i in range(b):
            if estimator == "weighted":
                weight = 1 / (n * b)
            elif i == j:
                weight = 1 / n
            else:
                m = b - 1
                weight = (n - m) / (n * m) if i == (j + 1) % b else 1 / m
            densities = [
                math.exp(-((z[j][k] - mean[i][k]) ** 2) / 2 / math.exp(log_variance[i][k]))
                / math.sqrt(2 * math.pi * math.exp(log_variance[i][k]))
                for k in range(K)
            ]
            joint += weight * math.prod(densities)
            marginals = [x + weight * y for x, y in zip(marginals, densities, strict=True)]
        total += math.log(joint) - sum(math.log(x) for x in marginals)
    return total / b


def plain_reconstruction(decoded: Tensor, images: Tensor, likelihood: str) -> float:
    total = 0.0
    for logit, x in zip(decoded.flatten().tolist(), images.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        if likelihood == "gaussian":
            total += (p - x) ** 2
        else:
            total -= x * math.log(p) + (1 - x) * math.log(1 - p)
    return total / len(images)


Formula = Callable[[Numbers, Numbers, Numbers], tuple[float, dict[str, float]]]


def _of_kl(weigh: Callable[[float], float], **others: float) -> Formula:
    def formula(m: Numbers, v: Numbers, z: Numbers) -> tuple[float, dict[str, float]]:
        kl = plain_kl(m, v)
        return weigh(kl), {"kl": kl, **others}

    return formula


def _dip(variant: str, off: float, on: float) -> Formula:
    def formula(m: Numbers, v: Numbers, z: Numbers) -> tuple[float, dict[str, float]]:
        kl, penalty = plain_kl(m, v), plain_dip(m, v, variant, off, on)
        return kl + penalty, {"kl": kl, "covariance_penalty": penalty}

    return formula


def _beta_tc(beta: float, n: int, estimator: str) -> Formula:
    def formula(m: Numbers, v: Numbers, z: Numbers) -> tuple[float, dict[str, float]]:
        kl, correlation = plain_kl(m, v), plain_tc(m, v, z, n, estimator)
        return kl + (beta - 1) * correlation, {"kl": kl, "total_correlation": correlation}

    return formula


STEP = 7
FORMULAS: dict[str, tuple[type[VAE], dict[str, object], Formula]] = {
    "beta": (BetaVAE, {}, _of_kl(lambda kl: 4 * kl)),
    "beta 0.3": (BetaVAE, {"beta": 0.3}, _of_kl(lambda kl: 0.3 * kl)),
    "annealed": (
        AnnealedVAE,
        {"annealing_steps": 3 * STEP, "capacity": 12.0},
        _of_kl(lambda kl: 1000 * abs(kl - 4.0), capacity=4.0),
    ),
    "annealed to the end": (
        AnnealedVAE,
        {"annealing_steps": STEP - 1, "capacity": 0.5, "gamma": 3.0},
        _of_kl(lambda kl: 3 * abs(kl - 0.5), capacity=0.5),
    ),
    "bottleneck": (BottleneckVAE, {}, _of_kl(lambda kl: 4 * abs(kl - 10))),
    "bottleneck below": (
        BottleneckVAE,
        {"gamma": 2.0, "target": 0.1},
        _of_kl(lambda kl: 2 * abs(kl - 0.1)),
    ),
    "dip i": (DIPVAE, {"off_diagonal": 2.0}, _dip("i", 2, 20)),
    "dip ii": (DIPVAE, {"off_diagonal": 2.0, "variant": "ii"}, _dip("ii", 2, 2)),
    "dip i, both": (DIPVAE, {"off_diagonal": 2.0, "diagonal": 0.7}, _dip("i", 2, 0.7)),
    "beta-tc": (BetaTCVAE, {}, _beta_tc(6, N, "weighted")),
    "beta-tc, stratified": (
        BetaTCVAE,
        {"beta": 0.5, "estimator": "stratified"},
        _beta_tc(0.5, N, "stratified"),
    ),
}


def build(kind: type[VAE], **settings: object) -> VAE:
    """A model whose latents tell something before it is trained."""
    torch.manual_seed(0)
    model = kind(SHAPE, **{"latent_dim": K, **settings})
    with torch.no_grad():
        model.encoder.mean.weight.mul_(5)
        model.encoder.log_variance.weight.mul_(3)
    return model


def batch_of(*shape: int, dtype: torch.dtype = torch.float64) -> Batch:
    images = torch.rand(*shape, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return Batch(images, torch.zeros(*shape, 1, dtype=torch.int64), torch.zeros(*shape))


@pytest.fixture
def images_of(scenes):
    return ImageDataModule(scenes, batch_size=16, eval_batch_size=16)


def record(model: VAE) -> list[tuple[str, int, dict[str, float]]]:
    """Keep what a model logs."""
    logged = []

    def keep(stage: str, total: Tensor, terms: dict[str, Tensor], batch_size: int) -> None:
        values = {"loss": total, **terms}
        logged.append((stage, batch_size, {name: x.item() for name, x in values.items()}))

    model.log_losses = keep
    return logged


@pytest.mark.parametrize(
    ("name", "likelihood"),
    [*product(FORMULAS, ["bernoulli"]), ("beta", "gaussian")],
)
@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_the_loss_is_the_reconstruction_and_the_formula(name, likelihood, stage, images_of):
    kind, settings, formula = FORMULAS[name]
    model = build(kind, likelihood=likelihood, **settings).double()
    model.trainer = SimpleNamespace(global_step=STEP, datamodule=images_of)
    model.setup("fit")
    model.train(stage == "train")
    logged = record(model)
    # Single images, as of ImageDataModule, or pairs, of which every view counts.
    batch = batch_of(2, 3) if name == "beta" else batch_of(5)
    images = batch.images.flatten(0, -4)
    torch.manual_seed(2)
    step = {"train": "training_step", "val": "validation_step", "test": "test_step"}[stage]
    returned = getattr(model, step)(batch)

    with torch.no_grad():
        mean, log_variance = model.posterior(images)
        torch.manual_seed(2)
        noise = torch.randn(len(images), K, dtype=torch.float64)
        z = mean + (log_variance / 2).exp() * noise
        reconstruction = plain_reconstruction(model.decoder(z), images, likelihood)
    added, terms = formula(mean.tolist(), log_variance.tolist(), z.tolist())
    ((where, n, values),) = logged
    assert (where, n) == (stage, len(images))
    assert values["loss"] == pytest.approx(reconstruction + added, rel=1e-9)
    assert values["reconstruction"] == pytest.approx(reconstruction, rel=1e-9)
    for term, value in terms.items():
        assert values[term] == pytest.approx(value, rel=1e-9), term
    if stage == "train":
        assert returned.item() == values["loss"]
        returned.backward()
        assert all(parameter.grad.any() for parameter in model.encoder.parameters())


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_without_a_data_module_the_batch_is_all_there_is(estimator):
    model = build(BetaTCVAE, estimator=estimator).double()
    logged = record(model)
    model.training_step(batch_of(5))
    torch.manual_seed(2)
    model.training_step(batch_of(5))
    torch.manual_seed(2)
    noise = torch.randn(5, K, dtype=torch.float64)
    m, v = model.posterior(batch_of(5).images)
    z = m + (v / 2).exp() * noise
    expected = plain_tc(m.tolist(), v.tolist(), z.tolist(), 5, estimator)
    assert logged[1][2]["total_correlation"] == pytest.approx(expected, rel=1e-9)


def test_the_capacity_follows_the_steps_of_the_training(images_of, make_trainer):
    model = build(AnnealedVAE, capacity=6.0, annealing_steps=4)
    logged = record(model)
    make_trainer(max_epochs=1, num_sanity_val_steps=0).fit(model, datamodule=images_of)
    capacities = [(stage, values["capacity"]) for stage, _, values in logged]
    steps = [0.0, 1.5, 3.0, 4.5, 6.0, 6.0]
    assert capacities == [*(("train", c) for c in steps), ("val", 6.0), ("val", 6.0)]
    # No trainer, no steps.
    assert build(AnnealedVAE).global_step == 0


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (BetaVAE, {}),
        (AnnealedVAE, {}),
        (BottleneckVAE, {}),
        (DIPVAE, {"variant": "i"}),
        (DIPVAE, {"variant": "ii"}),
        (BetaTCVAE, {}),
        (BetaTCVAE, {"estimator": "stratified"}),
        (FactorVAE, {}),
    ],
)
def test_a_batch_of_one_image_has_a_loss(kind, settings, images_of):
    model = build(kind, **settings)
    model.trainer = SimpleNamespace(global_step=0, datamodule=images_of)
    model.setup("fit")
    logged = record(model)
    loss = model.training_step(batch_of(1, dtype=torch.float32))
    loss.backward()
    assert all(math.isfinite(value) for value in logged[0][2].values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    if kind is BetaTCVAE:
        assert logged[0][2]["total_correlation"] == pytest.approx(0, abs=1e-5)


def test_codes_are_means_and_decode_to_images():
    model, images = build(BetaVAE).eval(), torch.rand(5, *SHAPE)
    with torch.no_grad():
        codes = model.encode(images)
        assert codes.shape == (5, K, 1)
        torch.testing.assert_close(codes[..., 0], model.posterior(images).mean)
        assert torch.equal(codes, model.encode(images))  # nothing is drawn
        decoded = model.decode(1e4 * codes)
        expected = torch.sigmoid(model.decoder(1e4 * codes[..., 0]))
    assert decoded.shape == images.shape
    torch.testing.assert_close(decoded, expected)
    assert decoded.min() < 0.4
    assert decoded.max() > 0.6
    assert (model.n_subspaces, model.principal_subspace) == (K, None)


def test_wide_models_are_built():
    wide, plain = (BetaVAE(SHAPE, latent_dim=3072, width=width) for width in (2, 1))
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        codes = wide.encode(images)
        assert codes.shape == (2, 3072, 1)
        assert wide.decode(codes).shape == images.shape
    sizes = [[p.numel() for p in model.encoder.parameters()] for model in (wide, plain)]
    # Twice the channels of the image's filters, of their biases, and four times all between.
    assert [w / p for w, p in zip(*sizes, strict=True)][:4] == [2, 2, 4, 2]
    model = BetaTCVAE(SHAPE, latent_dim=3072)
    record(model)
    loss = model.training_step(batch_of(4, dtype=torch.float32))
    assert loss.isfinite()


def _silence(model: VAE, biases: list[float]) -> None:
    """Let an encoder say the same of all images: these means, and the prior's variance."""
    with torch.no_grad():
        for parameter in (
            *model.encoder.mean.parameters(),
            *model.encoder.log_variance.parameters(),
        ):
            parameter.zero_()
        model.encoder.mean.bias.copy_(torch.tensor(biases))


@pytest.mark.parametrize("biases", [[0.0] * K, [0.13, 0.15, -0.15, 1.0]])
def test_a_latent_that_says_the_same_of_all_images_is_not_active(biases, images_of, make_trainer):
    model = build(BetaVAE)
    _silence(model, biases)
    trainer = make_trainer()
    for _ in range(2):
        (logged,) = trainer.validate(model, datamodule=images_of, verbose=False)
        assert logged["val/active_units"] == 0
    kl = sum(bias**2 / 2 for bias in biases)
    assert logged["val/kl"] == pytest.approx(kl, rel=1e-5)
    total = logged["val/reconstruction"] + 4 * kl
    assert logged["val/loss"] == pytest.approx(total, rel=1e-5)
    assert "test/active_units" not in trainer.test(model, datamodule=images_of, verbose=False)[0]


@pytest.mark.parametrize("scale", [1.0, 3.0, 30.0])
def test_active_units_are_counted_over_all_images(scale, images_of, scenes, make_trainer):
    model = build(BetaVAE)
    with torch.no_grad():
        model.encoder.mean.weight.mul_(scale)
        mean = model.eval().posterior(images_of.images(scenes.rows("val"))).mean
    (logged,) = make_trainer().validate(model, datamodule=images_of, verbose=False)
    assert logged["val/active_units"] == (mean.var(0, correction=0) > 0.01).sum()


@pytest.mark.parametrize("kind", [BetaVAE, DIPVAE, BetaTCVAE, FactorVAE])
def test_losses_and_latents_are_in_float32_whatever_the_precision(kind):
    model = build(kind)
    batch = batch_of(6, dtype=torch.float32)
    model.log_losses = lambda stage, total, terms, batch_size: kept.extend([total, *terms.values()])
    kept: list[Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        half = model.posterior(batch.images)
        loss = model.training_step(batch)
    assert {x.dtype for x in [*half, loss, *kept]} == {torch.float32}
    loss.backward()
    exact = model.posterior(batch.images)
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05)
    assert not torch.equal(half.mean, exact.mean)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (BetaVAE, {"beta": -1.0}, "beta is -1.0: give a finite number that is not negative"),
        (BetaVAE, {"beta": math.nan}, "beta is nan: give a finite"),
        (BetaVAE, {"latent_dim": 0}, "is 0: give at least 1 latent dimension"),
        (BetaVAE, {"width": 0}, "width is 0: give a factor"),
        (BetaVAE, {"lr": 0.0}, "lr must be positive"),
        (BetaVAE, {"weight_decay": -1.0}, "weight_decay must not be negative"),
        (AnnealedVAE, {"gamma": -1.0}, "gamma is -1.0: give a finite number"),
        (AnnealedVAE, {"capacity": -2.0}, "capacity is -2.0: give a finite number"),
        (AnnealedVAE, {"annealing_steps": 0}, "annealing_steps is 0: give at least 1 step"),
        (BottleneckVAE, {"gamma": -1.0}, "gamma is -1.0: give a finite number"),
        (BottleneckVAE, {"target": -1.0}, "target is -1.0: give a finite number"),
        (DIPVAE, {"off_diagonal": -1.0}, "off_diagonal is -1.0: give a finite number"),
        (DIPVAE, {"diagonal": -1.0}, "diagonal is -1.0: give a finite number"),
        (BetaTCVAE, {"beta": -1.0}, "beta is -1.0: give a finite number"),
        (FactorVAE, {"gamma": -1.0}, "gamma is -1.0: give a finite number"),
        (
            FactorVAE,
            {"discriminator_lr": 0.0},
            "discriminator_lr is 0.0: give a positive, finite",
        ),
    ],
)
def test_settings_out_of_range_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        kind(SHAPE, **settings)
    assert "\n" not in str(caught.value)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"image_shape is \(3, 20, 16\)"):
        BetaVAE((3, 20, 16))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize(
    ("optimizer", "name"), [({}, "Adam"), ({"optimizer": "adamw", "weight_decay": 0.1}, "AdamW")]
)
def test_adam_without_a_schedule_is_the_default(optimizer, name, make_trainer):
    trainer = make_trainer(max_epochs=1)
    data = DataLoader([batch_of(4, dtype=torch.float32)] * 2, batch_size=None)
    trainer.fit(build(BetaVAE, **optimizer), data)
    (used,), (group,) = trainer.optimizers, trainer.optimizers[0].param_groups
    assert type(used).__name__ == name
    assert (group["lr"], group["weight_decay"]) == (1e-4, optimizer.get("weight_decay", 0.0))
    assert trainer.lr_scheduler_configs == []


def test_the_codes_feed_the_later_stages(tmp_path: Path):
    vae = ["BetaVAE", "--disentangle.model.latent_dim", "3", "--disentangle.model.beta", "0.5"]
    done = fit(
        tmp_path,
        *("--disentangle.model", *vae),
        *("--disentangle.data", "ImageDataModule", "--seeds", "1", "--cluster.subspace", "1"),
        *("--cluster.clusterer", "KMeans", "--cluster.clusterer.n_clusters", "3"),
        *("--evaluate.metrics", "[]", "--multitask.trainer.max_epochs", "1"),
        *("--baselines", "[]", "--controls", "[]"),
    )
    assert done == 0
    codes = Codes.load(tmp_path / "disentangle" / "codes")
    labels = AuxiliaryLabels.load(tmp_path / "cluster")
    assert codes.values.shape == (384, 3, 1)
    assert (labels.meta["subspace"], labels.n_classes) == (1, 3)
    # Clusters of one latent are intervals of it.
    order = labels.labels[codes.values[:, 1, 0].argsort()]
    assert (order[1:] != order[:-1]).sum() == 2
    run = load(tmp_path)
    assert isinstance(run.disentangler, BetaVAE)
    assert run.disentangler.beta == 0.5
    assert "hard_parameter_sharing" in run.arms
    assert any(isinstance(part, nn.Module) for part in run.disentangler.children())
