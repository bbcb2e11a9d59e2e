"""Weights that the user gives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detaux_pl.multitask.weighting.base import Weighting


class FixedWeighting(Weighting):
    """A weighted sum of the losses: `sum_t w_t L_t`.

    Args:
        weights: Weight of each task, the principal one first; not negative. The official code
            has (10, 1) in a comment (docs/methods.md, 'Weightings').

    Raises:
        ValueError: If a weight is negative, infinite or NaN.

    Example:
        >>> weighting = FixedWeighting([10.0, 1.0])
        >>> weighting.setup(n_tasks=2)
        >>> weighting(torch.tensor([1.0, 2.0]))
        tensor(12.)
    """

    _weights: Tensor

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        if not all(0.0 <= weight < math.inf for weight in weights):
            raise ValueError(f"weights are {weights}: give finite numbers that are not negative.")
        values = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("_weights", values, persistent=False)

    def setup(self, n_tasks: int) -> None:
        """Check the number of tasks.

        Raises:
            ValueError: If there is not one weight for each task.
        """
        if len(self._weights) != n_tasks:
            raise ValueError(
                f"FixedWeighting has {len(self._weights)} weights for {n_tasks} tasks: "
                "give one for each, the principal one first."
            )

    @property
    def weights(self) -> Tensor:
        """The given weights, shape (T,)."""
        return self._weights
