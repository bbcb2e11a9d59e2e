import pytest
import torch
from torch import nn

from detaux_pl.models.projectors import ConvolutionalProjectors, ProjectorStack

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


def test_convolutions_equal_a_loop_of_sequentials():
    torch.manual_seed(0)
    stack = ConvolutionalProjectors(K, D)
    torch.manual_seed(0)
    loop = [
        nn.Sequential(
            nn.Conv2d(D, D, 1), nn.ReLU(), nn.Conv2d(D, D, 1), nn.ReLU(), nn.Conv2d(D, D, 1)
        )
        for _ in range(K)
    ]
    maps = torch.randn(7, D, 2, 3)
    ours, theirs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    codes = stack(ours)
    expected = torch.stack([module(theirs).flatten(1) for module in loop])
    assert codes.shape == (K, 7, D * 2 * 3)
    torch.testing.assert_close(codes, expected)

    codes.sin().sum().backward()
    expected.sin().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    for i, module in enumerate(loop):
        for layer, weight, bias in zip(module[::2], stack.weights, stack.biases, strict=True):
            torch.testing.assert_close(weight.grad[i], layer.weight.grad.flatten(1))
            torch.testing.assert_close(bias.grad[i, 0], layer.bias.grad)


@pytest.mark.parametrize("kind", [ProjectorStack, ConvolutionalProjectors])
def test_an_empty_stack_is_refused(kind):
    with pytest.raises(ValueError, match="n_subspaces is 0 and dim is 5"):
        kind(0, 5)
