"""Every regulariser against a loop, closed forms and what must not change it."""

import math
from itertools import permutations, product

import pytest
import torch
from torch.autograd import gradcheck

from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.losses.regularizers.base import Embeddings, Regularizer
from detaux_pl.losses.regularizers.hessian_penalty import HessianPenalty
from detaux_pl.losses.regularizers.info_min import InfoMin
from detaux_pl.losses.regularizers.orthogonality import Orthogonality
from detaux_pl.losses.regularizers.slice_bound import SliceBound
from tests.losses import plain_contrastive as plain
from tests.losses.plain_contrastive import DIM, LABELS, SLICE_LABELS, N, embeddings

EXACT = {"rtol": 1e-9, "atol": 1e-12}
CHUNKS = (1, 3, 1000)
ALL = [
    InfoMin(1.0),
    InfoMin(1.0, "cross"),
    Orthogonality(1.0),
    Orthogonality(1.0, "own_and_positive"),
    Orthogonality(1.0, permute=True, seed=4),
    HessianPenalty(1.0),
    HessianPenalty(1.0, "per_sample", "normalized"),
    SliceBound(1.0),
]
all_regularizers = pytest.mark.parametrize(
    "regularizer", ALL, ids=[f"{regularizer.name}{i}" for i, regularizer in enumerate(ALL)]
)
both_reductions = pytest.mark.parametrize("reduction", ["mean", "sum"])
both_sizes = pytest.mark.parametrize("n_slices", [2, 3])


def batch_of(slices, kind="view", step=0):
    own = torch.tensor(SLICE_LABELS[kind])[: slices.shape[1]]
    return Embeddings(slices, own[0], own, step)


def assert_equal_to_the_loop(regularizer, batch, settings, expected):
    """The value and the gradient by the embeddings, for every size of a chunk."""
    (expected_gradient,) = torch.autograd.grad(expected, batch.slices, allow_unused=True)
    for chunk_size in CHUNKS:
        value = regularizer(batch, InfoNCE(**settings, chunk_size=chunk_size))
        torch.testing.assert_close(value, expected, **EXACT)
        (gradient,) = torch.autograd.grad(value, batch.slices)
        torch.testing.assert_close(gradient, expected_gradient, **EXACT)


@both_sizes
@both_reductions
@pytest.mark.parametrize("variant", ["poster", "cross"])
def test_info_min_is_that_of_a_loop(variant, reduction, n_slices):
    slices = embeddings(2 * N, n_slices, DIM)
    expected = plain.info_min(slices, 0.3, variant, reduction)
    settings = {"temperature": 0.3, "reduction": reduction}
    assert_equal_to_the_loop(InfoMin(1.0, variant), batch_of(slices), settings, expected)


@both_sizes
@both_reductions
@pytest.mark.parametrize("pairs", ["all", "own_and_positive"])
def test_orthogonality_is_that_of_a_loop(pairs, reduction, n_slices):
    slices = embeddings(2 * N, n_slices, DIM)
    expected = plain.orthogonality(slices, pairs, reduction)
    settings = {"reduction": reduction}
    assert_equal_to_the_loop(Orthogonality(1.0, pairs), batch_of(slices), settings, expected)


@both_sizes
@pytest.mark.parametrize("pairs", ["all", "own_and_positive"])
def test_the_permutation_is_drawn_from_the_seed_and_the_step_alone(pairs, n_slices):
    slices = embeddings(2 * N, n_slices, DIM).detach()
    by_value = {
        round(plain.orthogonality(slices, pairs, "mean", order).item(), 9): order
        for order in permutations(range(DIM))
    }
    assert len(by_value) == 6

    def orders(**settings):
        regularizer = Orthogonality(1.0, pairs, permute=True, **settings)
        values = [regularizer(batch_of(slices, step=step), InfoNCE()).item() for step in range(12)]
        return [by_value[round(value, 9)] for value in values]

    drawn = orders()
    torch.manual_seed(99)
    assert orders() == drawn
    assert len(set(drawn)) > 2
    assert orders(seed=1) != drawn
    fixed = [orders(fixed=True, seed=seed) for seed in range(12)]
    assert all(len(set(of_a_seed)) == 1 for of_a_seed in fixed)
    assert len({of_a_seed[0] for of_a_seed in fixed}) > 2


@pytest.mark.parametrize("fixed", [True, False])
def test_nothing_is_permuted_in_evaluation(fixed):
    batch = batch_of(embeddings(2 * N, 3, DIM), step=2)
    permuted = Orthogonality(1.0, permute=True, fixed=fixed, seed=1)
    plain = Orthogonality(1.0)(batch, InfoNCE())
    assert not permuted(batch, InfoNCE()).allclose(plain)
    assert permuted.eval()(batch, InfoNCE()).equal(plain)


@both_sizes
@both_reductions
@pytest.mark.parametrize("form", ["gram", "per_sample"])
@pytest.mark.parametrize(
    ("kind", "denominator", "wrt"),
    [
        *product(["view", "joint"], ["one_positive"], ["raw", "normalized"]),
        ("lonely", "all", "raw"),
        ("joint", "all", "normalized"),
    ],
)
def test_the_hessian_penalty_is_that_of_a_loop(kind, denominator, wrt, form, reduction, n_slices):
    slices = embeddings(2 * N, n_slices, DIM)
    gradient = plain.slopes(slices, LABELS[kind], 0.3, denominator, wrt)
    expected = plain.hessian_penalty(gradient, n_slices, form, reduction)
    settings = {"temperature": 0.3, "denominator": denominator, "reduction": reduction}
    batch = batch_of(slices)._replace(labels=torch.tensor(LABELS[kind]))
    assert_equal_to_the_loop(HessianPenalty(1.0, form, wrt), batch, settings, expected)


@both_sizes
@both_reductions
@pytest.mark.parametrize("kind", SLICE_LABELS)
@pytest.mark.parametrize("denominator", ["one_positive", "all"])
def test_the_slice_bound_is_that_of_a_loop(denominator, kind, reduction, n_slices):
    slices = embeddings(2 * N, n_slices, DIM, seed=4)
    labels = SLICE_LABELS[kind][:n_slices]
    expected = plain.slice_bound(slices, labels, 0.3, denominator, reduction)
    assert expected > 0
    settings = {"temperature": 0.3, "denominator": denominator, "reduction": reduction}
    assert_equal_to_the_loop(SliceBound(1.0), batch_of(slices, kind), settings, expected)


class _PerfectWhole(InfoNCE):
    """The loss of a slice; 0 of the whole embedding, which SliceBound takes for a constant."""

    def forward(self, embeddings, labels):
        loss = super().forward(embeddings, labels)
        return loss if embeddings.shape[1] == 2 else loss.new_zeros(())


@all_regularizers
def test_gradients_by_finite_differences(regularizer):
    labels = torch.tensor([[0, 1, 1] * 2, [0, 1, 2] * 2, [0, 0, 1] * 2])
    info_max = (_PerfectWhole if isinstance(regularizer, SliceBound) else InfoNCE)(
        0.5, chunk_size=4
    )
    assert gradcheck(
        lambda slices: regularizer(Embeddings(slices, labels[0], labels, 0), info_max),
        embeddings(6, 3, 2),
    )


@pytest.mark.parametrize(("variant", "count"), [("poster", N - 1), ("cross", N)])
def test_equal_slices_have_all_that_info_min_can_count(variant, count):
    batch = batch_of(torch.ones(2 * N, 3, DIM, dtype=torch.float64))
    value = InfoMin(1.0, variant)(batch, InfoNCE()).item()
    assert value == pytest.approx(-6 * math.log(count), rel=1e-12)


@pytest.mark.parametrize("pairs", ["all", "own_and_positive"])
def test_orthogonality_is_zero_at_right_angles_and_counts_ordered_pairs_of_slices(pairs):
    lengths = torch.linspace(-3, 5, 2 * N, dtype=torch.float64)[:, None, None]
    apart = lengths * torch.eye(3, dtype=torch.float64)
    regularizer = Orthogonality(1.0, pairs)
    assert regularizer(batch_of(apart), InfoNCE()).item() == 0.0
    together = (lengths * torch.ones(3, dtype=torch.float64)).repeat(1, 3, 1)
    assert regularizer(batch_of(together), InfoNCE()).item() == pytest.approx(6, rel=1e-12)
    terms = (2 * N) ** 2 if pairs == "all" else 4 * N
    summed = regularizer(batch_of(together), InfoNCE(reduction="sum")).item()
    assert summed == pytest.approx(6 * terms, rel=1e-12)


@pytest.mark.parametrize("form", ["gram", "per_sample"])
@pytest.mark.parametrize("wrt", ["raw", "normalized"])
def test_the_hessian_has_no_block_of_a_slice_that_the_loss_ignores(form, wrt):
    slices = embeddings(2 * N, 2, DIM).detach()
    regularizer = HessianPenalty(1.0, form, wrt)
    assert regularizer(batch_of(slices), InfoNCE()) > 0.1
    slices[:, 1] = 0  # the loss has no slope there, to first order
    assert regularizer(batch_of(slices), InfoNCE()).item() == pytest.approx(1e-6, rel=1e-9)


@pytest.mark.parametrize("form", ["gram", "per_sample"])
def test_the_hessian_is_in_units_of_the_length_of_z(form):
    slices, info_max = embeddings(2 * N, 2, DIM), InfoNCE()
    near, far = batch_of(slices), batch_of(10 * slices)
    raw, normalized = HessianPenalty(1.0, form), HessianPenalty(1.0, form, "normalized")
    torch.testing.assert_close(raw(far, info_max), raw(near, info_max) / 100, rtol=1e-6, atol=0)
    torch.testing.assert_close(normalized(far, info_max), normalized(near, info_max), **EXACT)


def test_the_slice_bound_is_zero_where_a_slice_is_as_good_and_pulls_the_best_one_alone():
    own = embeddings(2 * N, DIM)
    copies = torch.stack([own, own], 1)
    assert SliceBound(1.0)(batch_of(copies, "joint"), InfoNCE()).item() == pytest.approx(
        0, abs=1e-12
    )
    slices = embeddings(2 * N, 2, DIM)
    batch = batch_of(slices, "joint")
    losses = [InfoNCE()(slices[:, k], batch.labels) for k in range(2)]
    (gradient,) = torch.autograd.grad(SliceBound(1.0)(batch, InfoNCE()), slices)
    best = losses.index(min(losses))
    torch.testing.assert_close(gradient, torch.autograd.grad(losses[best], slices)[0], **EXACT)


def test_names():
    assert [regularizer.name for regularizer in ALL] == [
        *["info_min"] * 2,
        *["orthogonality"] * 2,
        "permuted_orthogonality",
        *["hessian_penalty"] * 2,
        "slice_bound",
    ]


def _forward(regularizer: Regularizer, n: int):
    return regularizer(
        Embeddings(torch.ones(n, 2, 3), torch.arange(n), torch.ones(2, n), 0), InfoNCE()
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoMin(-1.0), "the weight of InfoMin is -1.0: give a finite number"),
        (lambda: SliceBound(math.nan), "the weight of SliceBound is nan"),
        (lambda: HessianPenalty(math.inf), "the weight of HessianPenalty is inf"),
        (lambda: Orthogonality(1.0, seed=-1, permute=True), "the seed of Orthogonality is -1"),
        (lambda: Orthogonality(1.0, fixed=True), "set permute too"),
        (lambda: _forward(InfoMin(1.0), 2), "which holds one: give at least 2, or take"),
        (lambda: _forward(InfoMin(1.0, "cross"), 3), "there are 3 embeddings: give two views"),
        (lambda: _forward(Orthogonality(1.0, "own_and_positive"), 3), "there are 3 embeddings"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
