"""What holds for every regulariser, those of later files included."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.losses.regularizers.base import Embeddings, Regularizer
from tests.found import check_refusal, every, variants
from tests.losses.plain_contrastive import DIM, SLICE_LABELS, N

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def batch_of(n=N, n_slices=3, kind="view", dtype=torch.float64):
    """Pairs whose views are alike and whose slices know of each other, labelled by view or not."""
    generator = torch.Generator().manual_seed(4)
    shape = (n, n_slices, DIM)
    pairs = torch.randn(shape, generator=generator, dtype=torch.float64)
    pairs = pairs + torch.randn((n, 1, DIM), generator=generator, dtype=torch.float64)
    noise = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    slices = (pairs + 0.5 * noise).flatten(0, 1).to(dtype).requires_grad_()
    labels = torch.arange(n).repeat(2).expand(n_slices, -1)
    if kind != "view":
        labels = torch.tensor(SLICE_LABELS[kind])[:n_slices]
    return Embeddings(slices, labels[0], labels, step=3)


def made(cls):
    """Each kind of it, with a description."""
    return variants(Regularizer, cls).items()


@every(Regularizer)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", SLICE_LABELS)
def test_a_finite_scalar_whose_gradient_reaches_the_embeddings(cls, kind, reduction):
    for name, regularizer in made(cls):
        batch = batch_of(kind=kind)
        before = batch.slices.detach().clone()
        value = regularizer(batch, InfoNCE(reduction=reduction))
        assert value.shape == (), name
        assert value.dtype == torch.float64, name
        assert value.isfinite(), name
        assert value.requires_grad, f"{name} gives the embeddings no gradient"
        value.backward()
        assert batch.slices.grad.isfinite().all(), name
        assert batch.slices.grad.any() or value == 0, f"{name} is {value:g}, its gradient zero"
        assert batch.slices.equal(before), f"{name} changes the embeddings in place"
    # Somewhere it must pull: a term without a gradient regularises nothing.
    batch = batch_of()
    regularizer(batch, InfoNCE()).backward()
    assert batch.slices.grad.any(), f"{name} does nothing to embeddings drawn at random"


@every(Regularizer)
def test_a_step_against_the_gradient_lowers_it(cls):
    for name, regularizer in made(cls):
        regularizer = copy.deepcopy(regularizer)
        batch = batch_of()
        value = regularizer(batch, InfoNCE())
        (gradient,) = torch.autograd.grad(value, batch.slices)
        step = 1e-4 * gradient / gradient.norm()
        lower = batch._replace(slices=(batch.slices - step).detach())
        assert regularizer(lower, InfoNCE()) < value, name


@every(Regularizer)
@pytest.mark.parametrize("kind", SLICE_LABELS)
def test_the_order_of_pairs_and_views_does_not_count(cls, kind):
    batch = batch_of(kind=kind)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    order = torch.cat([order + N, order])
    other = Embeddings(
        batch.slices[order], batch.labels[order], batch.slice_labels[:, order], batch.step
    )
    for _, regularizer in made(cls):
        found = regularizer(other, InfoNCE())
        torch.testing.assert_close(found, regularizer(batch, InfoNCE()), **EXACT)


@every(Regularizer)
def test_the_seed_of_torch_does_not_count_and_is_not_touched(cls):
    for name, regularizer in made(cls):
        values = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            values.append(regularizer(batch_of(), InfoNCE()))
            assert torch.get_rng_state().equal(before), name
        assert values[0].equal(values[1]), name


@every(Regularizer)
def test_the_size_of_a_chunk_does_not_count(cls):
    for _, regularizer in made(cls):
        whole = regularizer(batch_of(), InfoNCE())
        for chunk_size in (1, 5):
            value = regularizer(batch_of(), InfoNCE(chunk_size=chunk_size))
            torch.testing.assert_close(value, whole, **EXACT)


@every(Regularizer)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(cls, dtype):
    for name, regularizer in made(cls):
        batch = batch_of(dtype=dtype)
        exact = regularizer(batch._replace(slices=batch.slices.detach().float()), InfoNCE())
        with torch.autocast("cpu", dtype):
            value = regularizer(batch, InfoNCE())
        assert value.dtype == torch.float32, name
        assert value.equal(exact), name
        assert torch.autograd.grad(value, batch.slices)[0].isfinite().all(), name


@every(Regularizer)
def test_it_can_be_watched_without_a_gradient(cls):
    for name, regularizer in made(cls):
        with torch.no_grad():
            value = regularizer(batch_of(), InfoNCE())
        assert value.equal(regularizer(batch_of(), InfoNCE()).detach()), name
        for key, told in regularizer.diagnostics.items():
            assert told.shape == (), (name, key)
            assert not told.requires_grad, (name, key)


@every(Regularizer)
@pytest.mark.parametrize("n_slices", [1, 2])
def test_one_pair_and_one_slice_are_a_number_or_refused(cls, n_slices):
    for name, regularizer in made(cls):
        for n in (1, 2):
            batch = batch_of(n, n_slices)
            try:
                value = regularizer(batch, InfoNCE())
            except ValueError as error:
                check_refusal(error, cls.__name__)
                continue
            assert value.isfinite(), name
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value, batch.slices)
                assert gradient.isfinite().all(), name


@every(Regularizer)
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(cls, weight):
    with pytest.raises(ValueError, match=f"^the weight of {cls.__name__} is {weight}: give a fin"):
        cls(weight)


class _Largest(TorchDispatchMode):
    """Remember the size of the largest tensor that anything makes."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return made


def most_memory(loss):
    """Numbers in the largest tensor that a loss makes and in the largest that it keeps."""
    m, kept = 240, []
    slices = torch.randn(m, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(m // 2).repeat(2)

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with _Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(Embeddings(slices, labels, labels.repeat(2, 1), 0), InfoNCE(chunk_size=8))
        value.backward()
    assert slices.grad.any()
    return largest.size / m, max(kept) / m


@every(Regularizer)
def test_memory_grows_with_the_chunk_times_the_batch(cls):
    for name, regularizer in made(cls):
        largest, kept = most_memory(regularizer)
        # Checkpoints keep references to their inputs, of 6 numbers an embedding, not copies.
        assert largest <= 8, f"{name} holds {largest:g} numbers per embedding at a time"
        assert kept <= 6, f"{name} keeps {kept:g} numbers per embedding for its gradient"


def test_so_does_the_contrastive_loss():
    largest, kept = most_memory(lambda batch, nce: nce(batch.slices.flatten(1), batch.labels))
    assert largest <= 8
    assert kept <= 6
