import copy
import math

import numpy as np
import pytest
import torch
from lightning import seed_everything
from torch import autograd, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.modules import LabelledDataModule, PairDataModule
from detaux_pl.multitask.auxi_learn import AuxiLearn, AuxiLearnCombine
from detaux_pl.multitask.single_task import SingleTask
from detaux_pl.settings.build import constructor_defaults
from tests.multitask.bilevel import (
    CLASSES,
    SHAPE,
    check_resumed,
    datamodule,
    exact_batch,
    fit,
    smooth,
    trainer,
    training_loss,
)
from tests.ranks import Spawned

# Lightning's utilities and torch's pytree disagree about a deprecated class.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

LR = 0.3
COMBINATIONS = ["sum", "mono_linear", "mono_nonlinear"]


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    seed_everything(0, verbose=False)


def exact(**kwargs):
    model = AuxiLearn(SHAPE, (CLASSES,), "small_convnet", n_auxiliary=2, **kwargs)
    return smooth(model, features=2).double()


def make(data, cls=AuxiLearn, **kwargs):
    settings = {"hidden": 16, "lr": 2e-3, "hyper_every": 2, "held_out": 0.2} | kwargs
    return cls(data.image_shape, data.task_sizes, "small_convnet", **settings)


# Hypergradient


def dense(model, train, held_out):
    """Hessian of L_T, the mixed derivative (phi, W) and the gradient of L_V, as matrices."""
    names, own = zip(*model.network.named_parameters(), strict=True)
    sizes = [w.numel() for w in own]
    meta = model.meta_parameters()

    def logits(flat, images):
        parts = [p.view_as(w) for p, w in zip(flat.split(sizes), own, strict=True)]
        return functional_call(model.network, dict(zip(names, parts, strict=True)), (images,))

    def focal(z, t):
        p = z.softmax(1)
        return -(t * (1 - p) ** 2 * p.log()).sum(1)

    def training(flat):
        images, targets = train
        principal, auxiliary = logits(flat, images)
        labels = model.generator.labels(images, targets[:, 0])
        losses = [
            focal(principal, torch.eye(CLASSES, dtype=flat.dtype)[targets[:, 0]]),
            focal(auxiliary, labels),
        ]
        return combine(model, torch.stack(losses, 1)).mean()

    def validation(flat):
        images, targets = held_out
        hard = torch.eye(CLASSES, dtype=flat.dtype)[targets[:, 0]]
        return focal(logits(flat, images)[0], hard).mean()

    flat = torch.cat([w.detach().flatten() for w in own]).requires_grad_()
    hessian = autograd.functional.hessian(training, flat.detach())
    (inner,) = autograd.grad(training(flat), flat, create_graph=True)
    mixed = [
        torch.cat([g.flatten() for g in autograd.grad(x, meta, retain_graph=True)]) for x in inner
    ]
    (v,) = autograd.grad(validation(flat), flat)
    return hessian, torch.stack(mixed, 1), v


def combine(model, losses):
    """The combination, written out."""
    combination = model.combination
    if not list(combination.parameters()):
        return losses[:, 0] + 0.25 * losses[:, 1]
    value = losses
    weights = list(combination.parameters())
    for w, b in zip(weights[:-1:2], weights[1:-1:2], strict=True):
        value = (1 + (value @ w.T + b).exp()).log()
    return losses[:, 0] + (value @ weights[-1].T)[:, 0]


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize(("terms", "legacy"), [(0, False), (3, False), (3, True)])
def test_hyper_gradient_equals_the_dense_neumann_sum(combination, terms, legacy):
    model = exact(combination=combination, neumann_terms=terms, legacy_scale=legacy)
    train, held_out = exact_batch(6), exact_batch(5, seed=2)
    before = copy.deepcopy(model.state_dict())
    found = torch.cat([g.flatten() for g in model.hyper_gradient(train, held_out, LR).gradients])
    hessian, mixed, v = dense(model, train, held_out)
    p = sum(
        torch.linalg.matrix_power(torch.eye(len(v)) - LR * hessian, j) @ v for j in range(terms + 1)
    )
    right = -mixed @ ((1.0 if legacy else LR) * p)
    assert right.abs().max() > 0
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-12)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_many_terms_approach_the_inverse_hessian():
    train, held_out = exact_batch(6), exact_batch(5, seed=2)
    # Weight decay's part in it: without one the Hessian of a small net is not definite.
    ridge, lr = 4.0, 0.05

    class Ridge(AuxiLearn):
        def sample_losses(self, images, targets, meta=False):
            squares = sum(w.square().sum() for w in self.network.parameters())
            losses = super().sample_losses(images, targets, meta)
            return losses + ridge / 2 * squares * torch.tensor([1.0, 0.0])

    model = Ridge(SHAPE, (CLASSES,), "small_convnet", n_auxiliary=2, neumann_terms=300)
    model = smooth(model, features=2).double()
    found = torch.cat([g.flatten() for g in model.hyper_gradient(train, held_out, lr).gradients])
    hessian, mixed, v = dense(model, train, held_out)
    hessian += ridge * torch.eye(len(v))
    curvatures = torch.linalg.eigvalsh(hessian)
    assert 0 < curvatures[0] < curvatures[-1] < 2 / lr  # where the series converges
    right = -mixed @ torch.linalg.solve(hessian, v)
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-9)


def test_monotone_combinations_start_and_stay_monotone():
    model = exact(combination="mono_nonlinear")
    weights = [w for w in model.combination.parameters() if w.ndim == 2]
    assert [tuple(w.shape) for w in weights] == [(10, 2), (10, 10), (1, 10)]
    assert all(0 <= w.min() < w.max() <= 0.2 for w in weights)
    with torch.no_grad():
        for parameter in model.combination.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    model.combination.keep_monotone()
    assert all(w.min() == 0 and w.max() == 1 for w in weights if w.numel() > 1)
    assert any(b.min() == -1 for b in model.combination.parameters() if b.ndim == 1)
    losses = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)
    (slope,) = autograd.grad(model.combination(losses).sum(), losses)
    assert (slope >= torch.tensor([1.0, 0.0])).all()


# Held-out images


class Recorded(LabelledDataModule):
    """Remembers which rows were read for hyper steps, and in which epoch."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.read = []

    def images(self, rows, epoch=None):
        self.read.append((rows, epoch))
        return super().images(rows, epoch)


def test_held_out_images_are_apart_from_training_and_evaluation(tmp_path):
    data = datamodule(Recorded, n_train=200, n_eval=20)
    seen = []

    class Watched(AuxiLearn):
        def sample_losses(self, images, targets, meta=False):
            if not meta:
                seen.append(len(images))
            return super().sample_losses(images, targets, meta)

    model, fitting = fit(tmp_path, lambda d: make(d, Watched), data, max_epochs=2)
    held_out = set(model._held_out_rows.tolist())
    train = set(data.dataset.rows("train").tolist())
    assert held_out < train
    assert len(held_out) == 40
    classes = data.dataset.labels[model._held_out_rows]
    counts = np.bincount(data.dataset.labels[data.dataset.rows("train")], minlength=10)
    assert (abs(np.bincount(classes, minlength=10) - 0.2 * counts) < 1).all()
    # Six batches per epoch; a hyper step at every second one reads one batch of each kind.
    assert fitting.global_step == 12
    assert len(data.read) == 12
    for (rows, epoch), (clean, none) in zip(data.read[::2], data.read[1::2], strict=True):
        assert set(rows.tolist()) <= train - held_out
        assert set(clean.tolist()) <= held_out
        assert (len(rows), len(clean)) == (32, 32)
        assert epoch in (0, 1)
        assert none is None
    assert len({tuple(rows) for rows, _ in data.read}) == 12
    # Nothing held out was trained on: every epoch misses 8 of the other images at least.
    assert sum(seen) <= 2 * (200 - 40)
    again, _ = fit(tmp_path, make, datamodule(n_train=200), max_steps=1)
    assert again._held_out_rows.tolist() == sorted(held_out)


def test_a_batch_that_is_held_out_makes_a_zero_step(tmp_path):
    data = datamodule(n_train=64)

    class Held(AuxiLearn):
        def on_train_start(self):
            self._is_held_out[:] = True

    model, fitting = fit(tmp_path, lambda d: make(d, Held, weight_decay=0.0), data, max_epochs=1)
    seed_everything(0, verbose=False)
    start = make(data, Held)
    for key, value in start.network.state_dict().items():
        assert torch.equal(value, model.network.state_dict()[key]), key
    assert fitting.callback_metrics["train/loss"] == 0.0
    assert any(
        not torch.equal(value, model.generator.state_dict()[key])
        for key, value in start.generator.state_dict().items()
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "the trainer has none: give it as datamodule"),
        (PairDataModule, "the trainer has PairDataModule"),
        (LabelledDataModule, r"held_out is 0.01, 1 of 128 train images: 1 rank\(s\) need 2"),
    ],
)
def test_data_that_cannot_be_held_out_are_refused(tmp_path, data, message):
    given = datamodule(data or LabelledDataModule)
    model = AuxiLearn((3, 16, 16), (10,), "small_convnet", held_out=0.01)
    what = {"datamodule": given}
    if data is None:
        what = {"train_dataloaders": DataLoader(range(4)), "val_dataloaders": DataLoader(range(4))}
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, max_epochs=1).fit(model, **what)


# Training


def test_training_improves_the_principal_loss(tmp_path):
    data = datamodule(n_train=256, batch_size=16)
    model, fitting = fit(
        tmp_path, lambda d: make(d, hidden=256, lr=1e-3, hyper_every=4), data, max_epochs=3
    )
    metrics = fitting.callback_metrics
    assert {"train/loss", "train/loss/auxiliary", "train/loss/meta"} < metrics.keys()
    assert training_loss(model, data) < 0.8 * math.log(10)


def test_given_tasks_are_combined(tmp_path):
    data = datamodule(n_train=256, auxiliary="location")
    model, fitting = fit(
        tmp_path, lambda d: make(d, AuxiLearnCombine, hyper_every=4), data, max_epochs=4
    )
    metrics = fitting.callback_metrics
    assert metrics["val/accuracy/auxiliary"] > 0.6
    assert "val/accuracy/principal" in metrics
    (weights,) = model.combination.parameters()
    assert weights.shape == (1, 2)
    assert (weights >= 0).all()
    batch = torch.rand(3, *data.image_shape), torch.tensor([[1, 2], [3, -1], [0, 0]])
    model.eval()
    losses = model.sample_losses(*batch)
    for row, (first, second) in enumerate(zip(*model(batch[0]), strict=True)):
        y, a = batch[1][row].tolist()
        assert losses[row, 0].item() == pytest.approx(-first.log_softmax(0)[y].item(), rel=1e-5)
        expected = 0.0 if a < 0 else -second.log_softmax(0)[a].item()
        assert losses[row, 1].item() == pytest.approx(expected, rel=1e-5)


def test_the_hyper_gradient_is_clipped(tmp_path):
    model, _ = fit(
        tmp_path,
        lambda d: make(
            d, clip=1e-12, optimizer="sgd", meta_lr=1.0, meta_weight_decay=0.0, legacy_scale=True
        ),
        datamodule(n_train=64),
        max_epochs=1,
    )
    seed_everything(0, verbose=False)
    start = make(datamodule(n_train=64))
    for before, after in zip(
        start.generator.parameters(), model.generator.parameters(), strict=True
    ):
        assert (before - after).norm() < 1e-6


def test_resumed_run_equals_an_undisturbed_one(tmp_path):
    def seen(data):
        return make(data, combination="mono_nonlinear", hyper_every=3, lr_schedule="cosine")

    fitting = check_resumed(tmp_path, seen, datamodule)
    assert fitting.global_step == 8


def test_bfloat16_trains(tmp_path):
    model, fitting = fit(
        tmp_path, lambda d: make(d, combination="mono_linear"), datamodule(n_train=64),
        max_epochs=1, precision="bf16-mixed",
    )  # fmt: skip
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert fitting.callback_metrics["train/loss/meta"].isfinite()


@pytest.mark.ddp
def test_two_ranks_equal_one_on_the_joined_batch(tmp_path):
    def smoothed(data):
        model = make(
            data, combination="mono_linear", lr=0.1, optimizer="sgd", meta_lr=0.1,
            legacy_scale=True,
        )  # fmt: skip
        return smooth(model, data.image_shape)

    def run(devices, batch_size):
        return fit(
            tmp_path,
            smoothed,
            datamodule(n_train=80, batch_size=batch_size, n_eval=5),
            max_epochs=2,
            devices=devices,
            strategy=Spawned() if devices > 1 else "auto",
        )

    one, of_one = run(devices=1, batch_size=16)
    two, of_two = run(devices=2, batch_size=8)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    for name, value in of_one.callback_metrics.items():
        torch.testing.assert_close(of_two.callback_metrics[name], value, atol=1e-6, rtol=1e-5)


# Construction


def test_they_start_as_the_single_task_does():
    def seeded(cls):
        seed_everything(3, verbose=False)
        return cls((3, 16, 16), (10, 4), "small_convnet")

    alone = seeded(SingleTask)
    for cls, sizes in ((AuxiLearn, [10]), (AuxiLearnCombine, [10, 4])):
        model = seeded(cls)
        for one, other in (
            (alone.backbone, model.network.backbone),
            (alone.head, model.network.heads[0]),
        ):
            state = other.state_dict()
            assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
        assert [z.shape[1] for z in model.eval()(torch.rand(2, 3, 16, 16))] == sizes
        assert model.uses_auxiliary == (len(sizes) > 1)
        assert set(model.hparams) == set(constructor_defaults(cls))
        assert not any(
            isinstance(module, nn.Dropout) and module.p
            for module in (model.generator.modules() if cls is AuxiLearn else ())
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"held_out": 0.0}, r"in \(0, 0.5\]"),
        ({"held_out": 0.6}, r"in \(0, 0.5\]"),
        ({"hyper_every": 0}, "hyper_every is 0"),
        ({"neumann_terms": -1}, "neumann_terms is -1"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"auxiliary_weight": -1.0}, "auxiliary_weight is -1.0"),
        ({"n_auxiliary": 1}, "at least 2 auxiliary classes"),
    ],
)
def test_bad_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AuxiLearn(SHAPE, (CLASSES,), "small_convnet", **wrong)


def test_a_combination_needs_tasks():
    with pytest.raises(ValueError, match="take AuxiLearn"):
        AuxiLearnCombine(SHAPE, (CLASSES,), "small_convnet")
