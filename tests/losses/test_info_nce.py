"""The contrastive loss and its gradient, against loops and closed forms."""

import math
from itertools import product

import pytest
import torch
from torch.autograd import gradcheck

from detaux_pl.losses.info_nce import InfoNCE
from tests.losses.plain_contrastive import DIM, LABELS, N, embeddings, info_nce, slopes, unit

EXACT = {"rtol": 1e-9, "atol": 1e-12}
SETTINGS = list(product(LABELS, ["one_positive", "all"]))
KEPT = torch.tensor(LABELS["lonely"])


@pytest.mark.parametrize(("kind", "denominator"), SETTINGS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_and_its_gradient_are_those_of_a_loop(kind, denominator, reduction):
    z, labels = embeddings(2 * N, 2 * DIM), LABELS[kind]
    units = torch.stack([unit(row) for row in z])
    expected = info_nce(units, labels, 0.3, denominator, reduction)
    (expected_gradient,) = torch.autograd.grad(expected, z)
    for chunk_size in (1, 3, 1000):
        loss = InfoNCE(0.3, denominator, reduction, chunk_size)(z, torch.tensor(labels))
        (gradient,) = torch.autograd.grad(3 * loss, z)
        torch.testing.assert_close(loss, expected, **EXACT)
        torch.testing.assert_close(gradient, 3 * expected_gradient, **EXACT)


@pytest.mark.parametrize(("kind", "denominator"), SETTINGS)
@pytest.mark.parametrize("wrt", ["raw", "normalized"])
def test_the_gradient_and_its_own_are_those_of_autograd(kind, denominator, wrt):
    z, labels = embeddings(2 * N, 2 * DIM), LABELS[kind]
    expected = slopes(z, labels, 0.3, denominator, wrt)
    direction = embeddings(2 * N, 2 * DIM, seed=1)
    (expected_second,) = torch.autograd.grad((expected * direction).sum(), z)
    for chunk_size in (1, 3, 1000):
        gradient = InfoNCE(0.3, denominator, "mean", chunk_size).gradient(
            z, torch.tensor(labels), wrt
        )
        (second,) = torch.autograd.grad((gradient * direction).sum(), z)
        torch.testing.assert_close(gradient, expected, **EXACT)
        torch.testing.assert_close(second, expected_second, **EXACT)


@pytest.mark.parametrize("denominator", ["one_positive", "all"])
def test_gradients_by_finite_differences(denominator):
    z, info_max = embeddings(2 * N, DIM), InfoNCE(0.5, denominator, chunk_size=4)
    assert gradcheck(lambda z: info_max(z, KEPT), z)
    assert gradcheck(lambda z: info_max.gradient(z, KEPT), z)
    assert gradcheck(lambda z: info_max.gradient(z, KEPT, "normalized"), z)


@pytest.mark.parametrize(
    ("kind", "one_positive", "all_"),
    [("view", math.log(9), math.log(9)), ("joint", (8 * math.log(7) + 2 * math.log(9)) / 10, None)],
)
def test_equal_embeddings_give_the_logarithm_of_a_count(kind, one_positive, all_):
    z, labels = torch.ones(2 * N, 4, dtype=torch.float64), torch.tensor(LABELS[kind])
    assert InfoNCE()(z, labels).item() == pytest.approx(one_positive, rel=1e-12)
    everything = InfoNCE(denominator="all")(z, labels).item()
    assert everything == pytest.approx(all_ or math.log(9), rel=1e-12)


@pytest.mark.parametrize("denominator", ["one_positive", "all"])
@pytest.mark.parametrize("n", [1, 4])
def test_without_positives_the_loss_and_its_gradient_are_zero(denominator, n):
    z, info_max = embeddings(n, DIM), InfoNCE(denominator=denominator)
    loss = info_max(z, torch.arange(n))
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == 0.0
    assert gradient.eq(0).all()
    again = info_max.gradient(z, torch.arange(n))
    (second,) = torch.autograd.grad(again.sum(), z)
    assert again.eq(0).all()
    assert second.eq(0).all()


def test_without_negatives_one_positive_is_alone_in_its_denominator():
    z, labels = embeddings(6, DIM), torch.zeros(6, dtype=torch.int64)
    loss = InfoNCE()(z, labels)
    again = InfoNCE().gradient(z, labels)
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, z)[0].eq(0).all()
    assert torch.autograd.grad(again.sum(), z)[0].eq(0).all()


@pytest.mark.parametrize("denominator", ["one_positive", "all"])
def test_a_low_temperature_is_no_danger_in_float32(denominator):
    z, labels = embeddings(2 * N, DIM), torch.tensor(LABELS["joint"])
    info_max = InfoNCE(1e-3, denominator)
    exact, rough = info_max(z, labels), info_max(z.float(), labels)
    assert exact > 88  # exp of it would overflow
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=1e-5, atol=0)
    gradient = info_max.gradient(z.float(), labels)
    assert gradient.isfinite().all()
    assert torch.autograd.grad(gradient.square().sum(), z)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    z = embeddings(2 * N, DIM).detach().to(dtype).requires_grad_()
    exact = z.detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradient = InfoNCE()(z, KEPT), InfoNCE().gradient(z, KEPT)
    assert loss.dtype == gradient.dtype == torch.float32
    assert loss.equal(InfoNCE()(exact, KEPT))
    assert gradient.equal(InfoNCE().gradient(exact, KEPT))
    assert torch.autograd.grad(loss, z)[0].dtype == dtype


def test_the_length_of_an_embedding_and_the_order_of_the_batch_do_not_count():
    z, order = (
        embeddings(2 * N, DIM),
        torch.randperm(2 * N, generator=torch.Generator().manual_seed(0)),
    )
    lengths = torch.linspace(0.1, 10, 2 * N, dtype=torch.float64)[:, None]
    loss = InfoNCE()(z, KEPT)
    torch.testing.assert_close(InfoNCE()(lengths * z, KEPT), loss, **EXACT)
    torch.testing.assert_close(InfoNCE()(z[order], KEPT[order]), loss, **EXACT)


def test_an_embedding_of_length_zero_has_similarity_zero():
    z = embeddings(4, DIM).detach()
    z[0] = 0
    loss = InfoNCE(0.5, "all", "sum")(z, torch.tensor([0, 1, 0, 1]))
    s = 2 * torch.stack([unit(row) for row in z[1:]]) @ torch.stack([unit(row) for row in z[1:]]).T
    expected = math.log(3) + torch.stack([torch.zeros(()), s[1, 0], s[1, 2]]).logsumexp(0)
    for i, p in ((0, 2), (2, 0)):
        other = s[i, 1]
        expected += torch.stack([torch.zeros(()), other, s[i, p]]).logsumexp(0) - s[i, p]
    torch.testing.assert_close(loss, expected, **EXACT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0 and chunk_size is 256: give a temperature"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"chunk_size": 0}, "chunk_size is 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        InfoNCE(**settings)


@pytest.mark.parametrize("shapes", [((4, 2, 3), (4,)), ((4, 3), (3,)), ((4, 3), (4, 1))])
def test_wrong_shapes_are_refused(shapes):
    z, labels = torch.zeros(shapes[0]), torch.zeros(shapes[1], dtype=torch.int64)
    for compute in (InfoNCE(), InfoNCE().gradient):
        with pytest.raises(ValueError, match=r"the embeddings have shape .*: give \(M, D\)"):
            compute(z, labels)
