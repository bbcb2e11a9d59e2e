import pytest
import torch
from torch import nn

from detaux_pl.models.projection_head import ProjectionHeads

F, K, D = 12, 3, 5


@pytest.mark.parametrize("unified", [False, True])
def test_equals_a_loop_of_sequentials(unified):
    n, out, n_heads = (F, K * D, 1) if unified else (F // K, D, K)
    torch.manual_seed(0)
    heads = ProjectionHeads(F, K, D, unified).double()
    torch.manual_seed(0)
    loop = [
        nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, out, bias=False)).double()
        for _ in range(n_heads)
    ]
    features = torch.randn(7, F, dtype=torch.float64)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    projections = heads(ours)
    parts = theirs.split(n, dim=1)
    expected = torch.cat([head(part) for head, part in zip(loop, parts, strict=True)], dim=1)
    assert projections.shape == (7, K, D)
    torch.testing.assert_close(projections, expected.view(7, K, D), rtol=1e-9, atol=1e-12)

    projections.sin().sum().backward()
    expected.sin().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    for i, (hidden, _, output) in enumerate(loop):
        torch.testing.assert_close(heads.hidden_weight.grad[i], hidden.weight.grad)
        torch.testing.assert_close(heads.hidden_bias.grad[i, 0], hidden.bias.grad)
        torch.testing.assert_close(heads.output_weight.grad[i], output.weight.grad)
    n_parameters = sum(p.numel() for head in loop for p in head.parameters())
    assert sum(p.numel() for p in heads.parameters()) == n_parameters


@pytest.mark.parametrize("unified", [False, True])
def test_slices_of_features_mix_in_a_unified_head_alone(unified):
    heads = ProjectionHeads(F, K, D, unified)
    features = torch.randn(1, F, requires_grad=True)
    heads(features)[0, 1].sum().backward()
    reached = features.grad.view(K, -1).any(dim=1).tolist()
    assert reached == ([True] * K if unified else [False, True, False])


def test_batch_may_be_empty():
    assert ProjectionHeads(F, K)(torch.empty(0, F)).shape == (0, K, 8)


@pytest.mark.parametrize("unified", [False, True])
def test_features_that_do_not_divide_are_refused(unified):
    with pytest.raises(ValueError, match=r"^512 features do not divide into 3 slices: choose"):
        ProjectionHeads(512, 3, unified=unified)


@pytest.mark.parametrize("given", [(0, 2, 8), (4, 0, 8), (4, 2, 0)])
def test_sizes_out_of_range_are_refused(given):
    n_features, n_slices, dim = given
    message = f"n_features is {n_features}, n_slices is {n_slices} and dim is {dim}: all must"
    with pytest.raises(ValueError, match=message):
        ProjectionHeads(*given)
