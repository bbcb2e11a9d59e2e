"""Projectors: one latent vector in, one code per subspace out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ProjectorStack(nn.Module):
    """Projectors Linear - ReLU - Linear of equal width, all of them as two batched products.

    Equals a loop over `nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))`,
    random initialisation included.

    Args:
        n_subspaces: Number of projectors.
        dim: Width of input, hidden layer and output.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> ProjectorStack(n_subspaces=3, dim=8)(torch.zeros(5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, n_subspaces: int, dim: int) -> None:
        super().__init__()
        _check(n_subspaces, dim)
        self.n_subspaces = n_subspaces
        hidden, output = zip(
            *[(nn.Linear(dim, dim), nn.Linear(dim, dim)) for _ in range(n_subspaces)], strict=True
        )
        self.hidden_weight, self.hidden_bias = _stack(hidden)
        self.output_weight, self.output_bias = _stack(output)

    def forward(self, latent: Tensor) -> Tensor:
        """Map latent vectors, shape (n, dim), to codes, shape (n_subspaces, n, dim)."""
        latents = latent.expand(self.n_subspaces, -1, -1)
        hidden = torch.baddbmm(self.hidden_bias, latents, self.hidden_weight.mT).relu()
        return torch.baddbmm(self.output_bias, hidden, self.output_weight.mT)


class ConvolutionalProjectors(nn.Module):
    """Three 1 x 1 convolutions with ReLU between them, for every subspace, as batched products.

    Equals a loop over `nn.Sequential` of three `nn.Conv2d(dim, dim, 1)`, random initialisation
    included, with flattened maps as codes.

    Args:
        n_subspaces: Number of projectors.
        dim: Channels of input, hidden layers and output.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> ConvolutionalProjectors(n_subspaces=3, dim=8)(torch.zeros(5, 8, 2, 2)).shape
        torch.Size([3, 5, 32])

    References:
        The official code of Detaux; its projectors of vectors have two layers.
    """

    def __init__(self, n_subspaces: int, dim: int) -> None:
        super().__init__()
        _check(n_subspaces, dim)
        self.n_subspaces = n_subspaces
        layers = zip(
            *[[nn.Conv2d(dim, dim, 1) for _ in range(3)] for _ in range(n_subspaces)], strict=True
        )
        weights, biases = zip(*map(_stack, layers), strict=True)
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    def forward(self, latent: Tensor) -> Tensor:
        """Map latent maps, shape (n, dim, h, w), to codes, shape (n_subspaces, n, dim * h * w)."""
        n, dim, height, width = latent.shape
        # A 1 x 1 convolution is a dense layer at every place.
        places = latent.permute(0, 2, 3, 1).reshape(-1, dim).expand(self.n_subspaces, -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            places = torch.baddbmm(bias, places if i == 0 else places.relu(), weight.mT)
        return places.view(self.n_subspaces, n, height * width, dim).mT.flatten(2)


def _check(n_subspaces: int, dim: int) -> None:
    if min(n_subspaces, dim) < 1:
        raise ValueError(f"n_subspaces is {n_subspaces} and dim is {dim}: both must be at least 1.")


def _stack(layers: tuple[nn.Linear | nn.Conv2d, ...]) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights, shape (k, out, in), and biases, shape (k, 1, out)."""
    weight = torch.stack([layer.weight.detach().flatten(1) for layer in layers])
    bias = torch.stack([layer.bias.detach() for layer in layers if layer.bias is not None])
    return nn.Parameter(weight), nn.Parameter(bias.unsqueeze(1))
