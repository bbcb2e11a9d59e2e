import pytest
import torch
from torch import nn

from detaux_pl.models.projectors import ProjectorStack

K, D = 3, 5


def test_equals_a_loop_of_sequentials():
    torch.manual_seed(0)
    stack = ProjectorStack(K, D)
    torch.manual_seed(0)
    loop = [nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D)) for _ in range(K)]
    latent = torch.randn(7, D)
    ours, theirs = latent.clone().requires_grad_(), latent.clone().requires_grad_()
    codes, expected = stack(ours), torch.stack([module(theirs) for module in loop])
    torch.testing.assert_close(codes, expected)

    codes.sin().sum().backward()
    expected.sin().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    for i, (hidden, _, output) in enumerate(loop):
        torch.testing.assert_close(stack.hidden_weight.grad[i], hidden.weight.grad)
        torch.testing.assert_close(stack.hidden_bias.grad[i, 0], hidden.bias.grad)
        torch.testing.assert_close(stack.output_weight.grad[i], output.weight.grad)
        torch.testing.assert_close(stack.output_bias.grad[i, 0], output.bias.grad)


def test_an_empty_stack_is_refused():
    with pytest.raises(ValueError, match="n_subspaces is 0 and dim is 5"):
        ProjectorStack(0, 5)
