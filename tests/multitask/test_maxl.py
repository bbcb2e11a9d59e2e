import copy
import math

import pytest
import torch
from lightning import seed_everything
from torch import autograd
from torch.func import functional_call

from detaux_pl.artifacts.errors import UserError
from detaux_pl.multitask.bilevel import focal_loss, masked_softmax, pure
from detaux_pl.multitask.maxl import MAXL
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
    training_loss,
)
from tests.ranks import Spawned

# Lightning's utilities and torch's pytree disagree about a deprecated class.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

LR = 0.3


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    seed_everything(0, verbose=False)


def exact(**kwargs):
    return smooth(MAXL(SHAPE, (CLASSES,), "small_convnet", n_auxiliary=2, **kwargs)).double()


def make(data, **kwargs):
    settings = {"hidden": 16, "n_auxiliary": 2, "lr": 2e-3} | kwargs
    return MAXL(data.image_shape, data.task_sizes, "small_convnet", **settings)


# Losses


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_masked_softmax_gives_mass_to_the_own_class_alone(scale):
    logits = (scale * torch.randn(5, 6)).requires_grad_()
    targets = torch.tensor([0, 2, 1, 1, 0])
    labels = masked_softmax(logits, targets, 2)
    for row, y in enumerate(targets.tolist()):
        own = logits[row, 2 * y : 2 * y + 2].softmax(0)
        torch.testing.assert_close(labels[row, 2 * y : 2 * y + 2], own)
        assert labels[row].count_nonzero() <= 2
    torch.testing.assert_close(labels.sum(1), torch.ones(5))
    (gradient,) = autograd.grad(labels.square().sum(), logits)
    assert gradient.isfinite().all()


def test_masked_softmax_is_in_float32_at_least():
    logits = torch.randn(2, 4)
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert masked_softmax(logits.to(dtype), torch.tensor([0, 1]), 2).dtype == expected


def test_focal_loss_equals_a_naive_loop():
    logits = torch.randn(4, 3, dtype=torch.float64)
    soft = torch.rand(4, 3, dtype=torch.float64)
    hard = torch.tensor([2, 0, 1, 1])
    for targets, weights in ((soft, soft), (hard, torch.eye(3)[hard])):
        naive = [
            -sum(
                float(w) * (1 - p) ** 2 * math.log(p)
                for w, p in zip(row, z.softmax(0).tolist(), strict=True)
            )
            for row, z in zip(weights, logits, strict=True)
        ]
        assert focal_loss(logits, targets).tolist() == pytest.approx(naive, rel=1e-12)
    extreme = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    for y in range(3):
        (gradient,) = autograd.grad(focal_loss(extreme, torch.tensor([y])).sum(), extreme)
        assert gradient.isfinite().all()


# Meta gradient


def unrolled(model, images, targets, lr):
    """What the generator minimises, differentiated through one step as autograd does it."""
    names, own = zip(*model.network.named_parameters(), strict=True)
    labels = model.generator.labels(images, targets)

    def losses(values):
        logits = functional_call(model.network, dict(zip(names, values, strict=True)), (images,))
        p = [z.softmax(1) for z in logits]
        hard = torch.eye(CLASSES, dtype=p[0].dtype)[targets]
        return [
            -(t * (1 - q) ** 2 * q.log()).sum(1).mean()
            for t, q in zip((hard, labels), p, strict=True)
        ]

    inner = autograd.grad(sum(losses(own)), own, create_graph=True)
    loss = losses([w - lr * g for w, g in zip(own, inner, strict=True)])[0]
    q = labels.mean(0)
    negative_entropy = torch.xlogy(q, q).sum()
    total = loss + model.entropy_weight * negative_entropy
    gradients = autograd.grad(total, list(model.generator.parameters()))
    return gradients, loss.item(), -negative_entropy.item()


@pytest.mark.parametrize("entropy_weight", [0.0, 0.2])
def test_meta_gradient_equals_the_unrolled_step(entropy_weight):
    model = exact(entropy_weight=entropy_weight)
    images, targets = exact_batch()
    before = copy.deepcopy(model.state_dict())
    meta = model.meta_gradient(images, targets[:, 0], LR)
    expected, loss, entropy = unrolled(model, images, targets[:, 0], LR)
    assert meta.loss.item() == pytest.approx(loss, rel=1e-9)
    assert meta.entropy.item() == pytest.approx(entropy, rel=1e-9)
    for found, right in zip(meta.gradients, expected, strict=True):
        assert right.abs().max() > 0
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-12)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_entropy_is_differentiated_where_a_class_is_missing():
    model = exact(entropy_weight=0.5)
    images, _ = exact_batch(2)
    meta = model.meta_gradient(images, torch.zeros(2, dtype=torch.int64), 1e-12)
    (labels,) = model.generator.labels(images, torch.zeros(2, dtype=torch.int64)).split(2)
    q = labels.mean(0)[:2]
    expected = autograd.grad(0.5 * (q * q.log()).sum(), list(model.generator.parameters()))
    assert meta.entropy.item() == pytest.approx(-(q * q.log()).sum().item(), rel=1e-9)
    for found, right in zip(meta.gradients, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-9)


def test_finite_differences_are_close_to_the_second_order():
    model = exact(entropy_weight=0.0)
    images, targets = exact_batch()
    right = model.meta_gradient(images, targets[:, 0], LR).gradients
    model.second_order = False
    found = model.meta_gradient(images, targets[:, 0], LR).gradients
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())
    model.entropy_weight = 0.2
    with_entropy = model.meta_gradient(images, targets[:, 0], LR).gradients
    assert all((a - b).abs().max() > 0 for a, b in zip(with_entropy, found, strict=True))


def test_the_virtual_step_keeps_no_batch_statistics_and_drops_nothing():
    model = MAXL((3, 16, 16), (4,), "small_convnet", hidden=8, dropout=0.5).train()
    statistics = {k: v.clone() for k, v in model.network.named_buffers()}
    assert statistics
    images, targets = torch.rand(6, 3, 16, 16), torch.randint(4, (6,))
    first, second = (model.meta_gradient(images, targets, 0.1) for _ in range(2))
    for key, value in model.network.named_buffers():
        assert torch.equal(value, statistics[key]), key
    for a, b in zip(first.gradients, second.gradients, strict=True):
        torch.testing.assert_close(a, b)
    # Afterwards a training pass is again one.
    with pytest.raises(RuntimeError, match="stop"), pure(model.network):
        raise RuntimeError("stop")
    model.network(images)
    assert any(not torch.equal(v, statistics[k]) for k, v in model.network.named_buffers())
    assert not torch.equal(model.network(images)[0], model.network(images)[0])


# Training


@pytest.mark.parametrize("second_order", [True, False])
def test_training_improves_the_principal_loss(tmp_path, second_order):
    data = datamodule(n_train=256, batch_size=16)
    model, fitting = fit(
        tmp_path,
        lambda d: make(d, hidden=256, lr=1e-3, second_order=second_order),
        data,
        max_epochs=3,
    )
    metrics = fitting.callback_metrics
    assert training_loss(model, data) < 0.8 * math.log(10)
    keys = {"train/loss", "train/loss/auxiliary", "train/loss/meta", "train/entropy"}
    assert keys < metrics.keys()
    assert metrics["train/loss"].item() == pytest.approx(
        (metrics["train/loss/principal"] + metrics["train/loss/auxiliary"]).item(), rel=1e-5
    )
    assert 0 < metrics["train/entropy"] < math.log(20)
    # The steps of the generator are not the trainer's.
    assert fitting.global_step == 3 * 16


def test_max_steps_and_the_cosine_count_batches(tmp_path):
    model, fitting = fit(
        tmp_path, lambda d: make(d, lr_schedule="cosine"), datamodule(), max_steps=6
    )
    assert fitting.global_step == 6
    own, meta = fitting.optimizers
    assert own.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    assert meta.param_groups[0]["lr"] == 1e-3
    assert len(own.param_groups[0]["params"]) == len(list(model.network.parameters()))


def test_resumed_run_equals_an_undisturbed_one(tmp_path):
    check_resumed(tmp_path, lambda d: make(d, lr_schedule="cosine"), datamodule)


def test_optimizers_are_of_one_kind():
    model = make(datamodule(), optimizer="sgd", meta_weight_decay=0.3)
    own, meta = (entry["optimizer"] for entry in model.configure_optimizers())
    assert isinstance(own, torch.optim.SGD)
    assert isinstance(meta, torch.optim.SGD)
    assert meta.param_groups[0]["weight_decay"] == 0.3


def test_bfloat16_trains(tmp_path):
    model, fitting = fit(
        tmp_path, make, datamodule(n_train=64), max_epochs=1, precision="bf16-mixed"
    )
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert fitting.callback_metrics["train/loss/meta"].isfinite()


@pytest.mark.ddp
def test_two_ranks_equal_one_on_the_joined_batch(tmp_path):
    def run(devices, batch_size):
        return fit(
            tmp_path,
            lambda d: smooth(make(d, lr=0.1, optimizer="sgd", meta_lr=0.1), d.image_shape),
            datamodule(n_train=48, batch_size=batch_size, n_eval=5),
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


def test_it_starts_as_the_single_task_does():
    seed_everything(3, verbose=False)
    alone = SingleTask((3, 16, 16), (10, 4), "small_convnet")
    seed_everything(3, verbose=False)
    model = MAXL((3, 16, 16), (10, 4), "small_convnet")
    for one, other in (
        (alone.backbone, model.network.backbone),
        (alone.head, model.network.heads[0]),
    ):
        state = other.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
    assert [z.shape[1] for z in model.eval()(torch.rand(2, 3, 16, 16))] == [10]
    assert not model.uses_auxiliary
    assert model.hparams["task_sizes"] == (10, 4)
    assert set(model.hparams) == set(constructor_defaults(MAXL))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_auxiliary": 1}, "at least 2 auxiliary classes"),
        ({"entropy_weight": -0.1}, "entropy_weight is -0.1"),
        ({"meta_lr": 0.0}, "meta_lr must be positive"),
        ({"meta_weight_decay": -1.0}, "meta_weight_decay must not be negative"),
    ],
)
def test_bad_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MAXL(SHAPE, (CLASSES,), "small_convnet", **wrong)


def test_what_cannot_be_differentiated_twice_is_refused():
    model = make(datamodule())

    class Fake:
        precision = "16-mixed"

    model._trainer = Fake()
    with pytest.raises(UserError, match="take bf16-mixed or 32-true"):
        model.on_fit_start()
    Fake.precision = "32-true"
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with pytest.raises(UserError, match="sync_batchnorm is set"):
        model.on_fit_start()
