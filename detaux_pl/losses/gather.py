"""Batches that are spread over several processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import Function, once_differentiable


def world_size() -> int:
    """Return the number of ranks."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 1
    return distributed.get_world_size()


def gather_with_gradient(tensor: Tensor, dim: int = 0) -> Tensor:
    """Join the tensors of all ranks, in the order of the ranks, so that gradients reach each.

    Every rank then computes the whole loss. The backward pass sums over ranks what each of these
    equal losses says about a rank's part, and DDP takes the mean of the weights' gradients over
    ranks: what is left is the gradient of one rank on the joined batch.

    Args:
        tensor: Part of this rank, of the same shape and type on every rank.
        dim: Dimension along which the parts are joined.

    Returns:
        The joined tensor; the tensor itself where there is one rank.
    """
    if world_size() == 1:
        return tensor
    joined: Tensor = _Gather.apply(tensor, dim)
    return joined


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.length = dim, tensor.shape[dim]
        parts = [
            torch.empty_like(tensor, memory_format=torch.contiguous_format)
            for _ in range(distributed.get_world_size())
        ]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # The gradient may be shared with other parts of the graph: sum in a copy of it.
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.narrow(ctx.dim, distributed.get_rank() * ctx.length, ctx.length), None
