"""Gradients of tasks that do not pull against each other."""

from __future__ import annotations

import torch
from torch import Tensor

from detaux_pl.multitask.weighting.gramian import GramianName, GramianWeighting
from detaux_pl.multitask.weighting.state import Draws


class PCGradWeighting(GramianWeighting):
    """Projected conflicting gradients: each loses what opposes another one, and they are summed.

    Task i starts from its gradient `p_i = g_i`; for every other task j, in random order, where
    `<p_i, g_j> < 0` it becomes `p_i - <p_i, g_j> / <g_j, g_j> g_j`. All `p_i` are combinations of
    the gradients, so the projections happen in the coefficients, and the weight of task t is what
    it contributes to `sum_i p_i`: 1 for each where none conflict, never less.

    Args:
        gramian: With respect to what the gradients are taken: `features` (cheap) or `parameters`
            (as in the paper), see `GramianWeighting`.
        seed: Seed of the orders, which depend on it and the number of the step alone.

    Example:
        >>> weighting = PCGradWeighting()
        >>> weighting.setup(n_tasks=2)
        >>> gramian = torch.tensor([[1.0, -0.5], [-0.5, 1.0]]).double()  # gradients that conflict
        >>> weighting.weigh(gramian, torch.ones(2).double())
        tensor([1.5000, 1.5000], dtype=torch.float64)

    References:
        Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", arXiv 2001.06782, algorithm 1.
        Differs from it in: the gradient of each head is weighted as well.
    """

    def __init__(self, gramian: GramianName = "features", seed: int = 0) -> None:
        super().__init__(gramian)
        self.seed = seed
        self.draws = Draws(seed)

    def setup(self, n_tasks: int) -> None:
        """Start at the first step.

        Raises:
            ValueError: If there is one task.
        """
        super().setup(n_tasks)
        self.draws = Draws(self.seed)

    def weigh(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Return the summed coefficients of the projected gradients, shape (T,)."""
        generator = self.draws.next()
        products = gramian.tolist()
        n_tasks = len(products)
        total = torch.zeros(n_tasks, dtype=torch.float64)
        for i in range(n_tasks):
            weights = [float(t == i) for t in range(n_tasks)]
            for j in generator.permutation(n_tasks):
                inner = sum(w * g for w, g in zip(weights, products[j], strict=True))
                if j != i and inner < 0:
                    weights[j] -= inner / products[j][j]
            total += torch.tensor(weights, dtype=torch.float64)
        return total
