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
    """

    def __init__(self, n_subspaces: int, dim: int) -> None:
        super().__init__()
        if min(n_subspaces, dim) < 1:
            raise ValueError(
                f"n_subspaces is {n_subspaces} and dim is {dim}: both must be at least 1."
            )
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


def _stack(layers: tuple[nn.Linear, ...]) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights, shape (k, out, in), and biases, shape (k, 1, out)."""
    weight = torch.stack([layer.weight.detach() for layer in layers])
    bias = torch.stack([layer.bias.detach() for layer in layers])
    return nn.Parameter(weight), nn.Parameter(bias.unsqueeze(1))
