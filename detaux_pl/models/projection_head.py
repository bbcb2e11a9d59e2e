"""Projection heads: one feature vector in, one projection per slice out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ProjectionHeads(nn.Module):
    """Heads Linear(n, n) - ReLU - Linear(n, out) that map features to K slices of `dim` each.

    With F features, K heads map the K slices of the features, n = F / K, each to out = dim; a
    unified head maps all of them, n = F, to out = K dim. The second layer has no bias. Equals a
    loop over `nn.Sequential`, random initialisation included, as two batched products.

    Args:
        n_features: Number of features F.
        n_slices: Number of slices K.
        dim: Dimensions of the projection of each slice. Paper: 8.
        unified: Whether one head sees all features. Paper: for the Hessian penalty alone.

    Raises:
        ValueError: If an argument is not positive, or the features do not divide by the slices.

    Example:
        >>> ProjectionHeads(n_features=64, n_slices=2, dim=8)(torch.zeros(5, 64)).shape
        torch.Size([5, 2, 8])

    References:
        Layers: SimCLR, Chen et al. 2020, arXiv 2002.05709, without batch norm. Burns et al. 2021
        state only that the heads are shallow and their output 8-dimensional.
    """

    def __init__(self, n_features: int, n_slices: int, dim: int = 8, unified: bool = False) -> None:
        super().__init__()
        if min(n_features, n_slices, dim) < 1:
            raise ValueError(
                f"n_features is {n_features}, n_slices is {n_slices} and dim is {dim}: all must "
                "be at least 1."
            )
        if n_features % n_slices:
            raise ValueError(
                f"{n_features} features do not divide into {n_slices} slices: choose n_slices "
                f"among the divisors of {n_features}, or another encoder."
            )
        self.n_slices = n_slices
        self.dim = dim
        n_heads = 1 if unified else n_slices
        n, out = n_features // n_heads, n_slices * dim // n_heads
        hidden, output = zip(
            *[(nn.Linear(n, n), nn.Linear(n, out, bias=False)) for _ in range(n_heads)],
            strict=True,
        )
        self.hidden_weight = _stack([layer.weight for layer in hidden])
        self.hidden_bias = _stack([layer.bias.unsqueeze(0) for layer in hidden])
        self.output_weight = _stack([layer.weight for layer in output])

    def forward(self, features: Tensor) -> Tensor:
        """Map features, shape (B, F), to projections, shape (B, K, dim)."""
        n_heads, n, _ = self.hidden_weight.shape
        inputs = features.reshape(-1, n_heads, n).transpose(0, 1)
        hidden = torch.baddbmm(self.hidden_bias, inputs, self.hidden_weight.mT).relu()
        projections = torch.bmm(hidden, self.output_weight.mT).transpose(0, 1)
        return projections.reshape(-1, self.n_slices, self.dim)


def _stack(arrays: list[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.stack([array.detach() for array in arrays]))
