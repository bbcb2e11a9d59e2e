import math

import pytest
import torch

from detaux_pl.multitask.weighting.equal import EqualWeighting
from detaux_pl.multitask.weighting.fixed import FixedWeighting
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
