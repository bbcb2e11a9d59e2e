"""Weights under which all tasks train at a similar rate."""

from __future__ import annotations

import torch
from torch import Tensor

from detaux_pl.multitask.weighting.gramian import GramianName, GramianWeighting
from detaux_pl.multitask.weighting.state import State

_LEAST = 1e-3
"""Least weight before the weights are scaled to the sum T."""


class GradNormWeighting(GramianWeighting):
    """Gradient normalisation: weights learnt so that slow tasks have the larger gradients.

    With `n_t = |g_t|`, the loss relative to its first value `l_t = L_t / L_t(0)` and the relative
    rate `r_t = l_t / mean(l)`, the weights take a gradient step on
    `sum_t |w_t n_t - mean(w n) r_t^alpha|`, in which `mean(w n) r_t^alpha` is a constant, are kept
    positive and are scaled to the sum T. The loss of a step has the weights from before it.

    A task whose loss is zero, such as one without a label in the batch, sits the step out.

    Args:
        gramian: With respect to what the gradients are taken: `features` (cheap) or `parameters`,
            see `GramianWeighting`. Paper: the weights of the last shared layer.
        alpha: Strength with which rates are balanced; not negative. Paper: 1.5 for tasks as
            different as in NYUv2, 0.12 for similar ones.
        lr: Learning rate of the weights. Paper: 0.025.

    Raises:
        ValueError: If alpha is negative or the learning rate is not positive.

    Example:
        >>> weighting = GradNormWeighting(lr=0.1)
        >>> weighting.setup(n_tasks=2)
        >>> gramian = torch.tensor([[1.0, 0.0], [0.0, 9.0]]).double()  # |g_2| = 3
        >>> _ = weighting.weigh(gramian, torch.ones(2).double())  # equal weights in the first step
        >>> weighting.weigh(gramian, torch.ones(2).double()).round(decimals=4)
        tensor([1.2222, 0.7778], dtype=torch.float64)

    References:
        Chen et al. 2018, "GradNorm", arXiv 1711.02257, eq. 1 and 2, algorithm 1.
    """

    def __init__(
        self, gramian: GramianName = "features", alpha: float = 1.5, lr: float = 0.025
    ) -> None:
        super().__init__(gramian)
        if alpha < 0 or lr <= 0:
            raise ValueError(
                f"alpha is {alpha} and lr is {lr}: alpha must not be negative, lr must be positive."
            )
        self.alpha = alpha
        self.lr = lr

    def setup(self, n_tasks: int) -> None:
        """Start with equal weights, and without first losses.

        Raises:
            ValueError: If there is one task.
        """
        super().setup(n_tasks)
        self.next_weights = State(torch.ones(n_tasks, dtype=torch.float64))
        self.first_losses = State(torch.zeros(n_tasks, dtype=torch.float64))

    def weigh(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Return the weights of this step, shape (T,), and learn those of the next."""
        weights = self.next_weights.value
        first = self.first_losses.value
        self.first_losses.value = first = torch.where(first > 0, first, losses)
        there = losses > 0
        if there.sum() > 1:
            norms = gramian.diagonal().clamp(min=0).sqrt()[there]
            relative = losses[there] / first[there]
            scaled = weights[there] * norms
            targets = scaled.mean() * (relative / relative.mean()) ** self.alpha
            learnt = weights.clone()
            learnt[there] -= self.lr * torch.sign(scaled - targets) * norms
            learnt = learnt.clamp(min=_LEAST)
            self.next_weights.value = learnt * (len(learnt) / learnt.sum())
        return weights
