"""Weights that are drawn anew in every step."""

from __future__ import annotations

import torch
from torch import Tensor

from detaux_pl.multitask.weighting.base import Shared, Weighting, refuse_one_task
from detaux_pl.multitask.weighting.state import Draws


class RandomWeighting(Weighting):
    """Random loss weighting: `T softmax(x)`, x standard normal, drawn in every step.

    Equal weights in the mean, and a baseline that weightings should beat.

    Args:
        seed: Seed of the weights, which depend on it and the number of the step alone.

    Example:
        >>> weighting = RandomWeighting(seed=0)
        >>> weighting.setup(n_tasks=2)
        >>> _ = weighting(torch.tensor([1.0, 2.0]))
        >>> round(weighting.weights.sum().item(), 4)
        2.0

    References:
        Lin et al. 2022, "Reasonable Effectiveness of Random Weighting", arXiv 2111.10603, RLW with
        the normal distribution. Differs from it in: the weights sum to T instead of 1.
    """

    _weights: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.draws = Draws(seed)

    def setup(self, n_tasks: int) -> None:
        """Start at the first step.

        Raises:
            ValueError: If there is one task.
        """
        refuse_one_task(self, n_tasks)
        self.draws = Draws(self.seed)
        self.register_buffer("_weights", torch.ones(n_tasks), persistent=False)

    @property
    def weights(self) -> Tensor:
        """Weights of the last step, shape (T,)."""
        return self._weights

    def forward(self, losses: Tensor, shared: Shared | None = None) -> Tensor:
        """Draw weights and combine the losses, shape (T,), to a scalar."""
        drawn = torch.from_numpy(self.draws.next().standard_normal(len(losses)))
        self._weights = (len(losses) * drawn.softmax(0)).to(losses)
        return super().forward(losses)
