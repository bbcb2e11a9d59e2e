import math

import numpy as np
import pytest
import torch

from detaux_pl.multitask.weighting.dwa import DWAWeighting
from detaux_pl.multitask.weighting.equal import EqualWeighting
from detaux_pl.multitask.weighting.fixed import FixedWeighting
from detaux_pl.multitask.weighting.grad_norm import GradNormWeighting
from detaux_pl.multitask.weighting.mgda import MGDAWeighting
from detaux_pl.multitask.weighting.pcgrad import PCGradWeighting
from detaux_pl.multitask.weighting.random import RandomWeighting
from detaux_pl.multitask.weighting.uncertainty import UncertaintyWeighting

LOSSES = [2.0, 0.25, 1.5]


def test_equal_weighting_is_the_sum():
    weighting = EqualWeighting()
    weighting.setup(3)
    assert weighting(torch.tensor(LOSSES)).item() == sum(LOSSES)
    assert weighting.weights.tolist() == [1.0, 1.0, 1.0]
    assert not list(weighting.parameters())


def test_fixed_weighting_is_the_weighted_sum():
    weighting = FixedWeighting([10, 1, 0])
    weighting.setup(3)
    assert weighting(torch.tensor(LOSSES)).item() == 10 * 2.0 + 0.25
    assert weighting.weights.tolist() == [10.0, 1.0, 0.0]
    assert not list(weighting.parameters())


def test_fixed_weighting_needs_one_weight_per_task():
    with pytest.raises(ValueError, match="has 2 weights for 3 tasks"):
        FixedWeighting([10.0, 1.0]).setup(3)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_fixed_weighting_refuses_bad_weights(bad):
    with pytest.raises(ValueError, match="not negative"):
        FixedWeighting([1.0, bad])


@pytest.fixture
def uncertainty():
    weighting = UncertaintyWeighting()
    weighting.setup(3)
    return weighting


def test_uncertainty_starts_as_the_sum(uncertainty):
    assert uncertainty(torch.tensor(LOSSES)).item() == sum(LOSSES)
    assert uncertainty.weights.tolist() == [1.0, 1.0, 1.0]


def test_uncertainty_equals_a_naive_loop(uncertainty):
    uncertainty.double()
    s = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    uncertainty.log_variances.data.copy_(s)
    naive = sum(math.exp(-a) * loss + a / 2 for a, loss in zip(s.tolist(), LOSSES, strict=True))
    total = uncertainty(torch.tensor(LOSSES, dtype=torch.float64)).item()
    assert total == pytest.approx(naive, rel=1e-12)


def test_uncertainty_gradients(uncertainty):
    losses = torch.tensor(LOSSES, requires_grad=True)
    uncertainty.log_variances.data.copy_(torch.tensor([0.3, -1.2, 2.0]))
    uncertainty(losses).backward()
    weights = uncertainty.weights.detach()
    gradient = uncertainty.log_variances.grad
    torch.testing.assert_close(gradient, 0.5 - weights * losses.detach())
    torch.testing.assert_close(losses.grad, weights)
    # A step against the gradient lowers the weight where the weighted loss exceeds 1/2.
    assert torch.equal(gradient < 0, weights * losses.detach() > 0.5)


def test_uncertainty_settles_where_the_weighted_loss_is_one_half(uncertainty):
    losses = torch.tensor(LOSSES)
    optimizer = torch.optim.Adam(uncertainty.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        uncertainty(losses).backward()
        optimizer.step()
    torch.testing.assert_close(
        uncertainty.weights * losses, torch.full((3,), 0.5), atol=1e-3, rtol=0
    )


def test_setup_starts_anew(uncertainty):
    uncertainty.log_variances.data.fill_(1.0)
    uncertainty.setup(2)
    assert uncertainty.weights.tolist() == [1.0, 1.0]
    assert [name for name, _ in uncertainty.named_parameters()] == ["log_variances"]


COMPARING = [
    DWAWeighting,
    GradNormWeighting,
    MGDAWeighting,
    PCGradWeighting,
    RandomWeighting,
]


@pytest.mark.parametrize("weighting", COMPARING)
def test_one_task_cannot_be_compared(weighting):
    name = weighting.__name__
    with pytest.raises(ValueError, match=rf"^{name} weighs tasks .* there is 1: .*EqualWeighting"):
        weighting().setup(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DWAWeighting(0.0), "temperature is 0.0"),
        (lambda: GradNormWeighting(alpha=-1.0), "alpha is -1.0"),
        (lambda: GradNormWeighting(lr=0.0), "lr is 0.0"),
        (lambda: MGDAWeighting(normalization="l1"), "normalization is 'l1': choose"),
        (lambda: MGDAWeighting("images"), "gramian is 'images': choose"),
        (lambda: PCGradWeighting(seed=-1), "seed is -1"),
        (lambda: RandomWeighting(-1), "seed is -1"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_random_weights_are_softmax_of_normals():
    weighting = RandomWeighting(seed=3)
    weighting.setup(3)
    losses = torch.tensor(LOSSES, dtype=torch.float64)
    seen = []
    for step in range(400):
        total = weighting(losses).item()
        normals = np.random.default_rng([3, step]).standard_normal(3)
        naive = 3 * np.exp(normals) / np.exp(normals).sum()
        assert weighting.weights.tolist() == pytest.approx(naive, rel=1e-9)
        assert total == pytest.approx(naive @ LOSSES, rel=1e-9)
        seen.append(weighting.weights)
    torch.testing.assert_close(
        torch.stack(seen).mean(0), torch.ones(3, dtype=torch.float64), atol=0.1, rtol=0
    )


def test_dynamic_weight_average_is_the_formula():
    weighting = DWAWeighting(temperature=2.0)
    weighting.setup(2)
    generator = torch.Generator().manual_seed(0)
    epochs = torch.rand(5, 3, 2, generator=generator, dtype=torch.float64)
    means = epochs.mean(1).tolist()
    for e, losses in enumerate(epochs):
        expected = [1.0, 1.0]
        if e >= 2:
            powers = [math.exp(means[e - 1][t] / means[e - 2][t] / 2.0) for t in range(2)]
            expected = [2 * power / sum(powers) for power in powers]
        for step in losses:
            total = weighting(step).item()
            assert weighting.weights.tolist() == pytest.approx(expected, rel=1e-9)
            assert total == pytest.approx(np.dot(expected, step.numpy()), rel=1e-9)
        weighting.end_epoch()


def test_dynamic_weight_average_of_a_task_without_labels():
    weighting = DWAWeighting()
    weighting.setup(2)
    for loss in (1.0, 0.5, 0.25):
        weighting(torch.tensor([loss, 0.0]))
        weighting.end_epoch()
    weighting(torch.tensor([1.0, 0.0]))
    powers = [math.exp(0.25), math.exp(0.5)]
    assert weighting.weights.tolist() == pytest.approx(
        [2 * power / sum(powers) for power in powers], rel=1e-6
    )
