"""Weights by how fast the losses fall from epoch to epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from detaux_pl.multitask.weighting.base import Shared, Weighting, refuse_one_task
from detaux_pl.multitask.weighting.state import State, mean_over_ranks


class DWAWeighting(Weighting):
    """Dynamic weight average: `T softmax(r / temperature)`, `r_t = L_t(e - 1) / L_t(e - 2)`.

    `L_t(e)` is the mean of a task's losses over the steps of epoch e and over all ranks. A task
    that falls slowly weighs more. All weigh the same in the first two epochs; a task whose loss
    was zero counts as one that stands still.

    Args:
        temperature: Positive; large ones make the weights equal. Paper: 2.

    Raises:
        ValueError: If the temperature is not positive.

    Example:
        >>> weighting = DWAWeighting()
        >>> weighting.setup(n_tasks=2)
        >>> for losses in ([4.0, 4.0], [1.0, 4.0], [1.0, 4.0]):  # one step in each epoch
        ...     _ = weighting(torch.tensor(losses))
        ...     weighting.end_epoch()
        >>> [round(weight, 2) for weight in weighting.weights.tolist()]  # the second did not fall
        [0.81, 1.19]

    References:
        Liu, Johns, Davison 2019, "End-to-end multi-task learning with attention", arXiv
        1803.10704, eq. 7.
    """

    _weights: Tensor

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: it must be positive.")
        self.temperature = temperature

    def setup(self, n_tasks: int) -> None:
        """Start before the first epoch.

        Raises:
            ValueError: If there is one task.
        """
        refuse_one_task(self, n_tasks)
        self.register_buffer("_weights", torch.ones(n_tasks), persistent=False)
        self.learnt = State(torch.ones(n_tasks, dtype=torch.float64))
        self.last_means = State(torch.zeros(n_tasks, dtype=torch.float64))
        self.n_epochs = State(torch.tensor(0))
        self.total = State(torch.zeros(n_tasks, dtype=torch.float64))
        self.n_steps = State(torch.tensor(0))

    @property
    def weights(self) -> Tensor:
        """Weights of the present epoch, shape (T,)."""
        return self._weights

    def forward(self, losses: Tensor, shared: Shared | None = None) -> Tensor:
        """Note the losses, shape (T,), and combine them to a scalar."""
        # Joined in every step, as a checkpoint within the epoch is written by one rank.
        means = mean_over_ranks(losses.detach().clone())
        self.total.value = self.total.value.to(means.device) + means
        self.n_steps.value = self.n_steps.value + 1
        self._weights = self.learnt.value.to(losses)
        return super().forward(losses)

    def end_epoch(self) -> None:
        """Weigh the next epoch by the last two."""
        means = self.total.value.cpu() / self.n_steps.value
        if self.n_epochs.value > 0:
            last = self.last_means.value
            ratios = torch.where(last > 0, means / last, 1.0)
            self.learnt.value = len(means) * (ratios / self.temperature).softmax(0)
        self.last_means.value = means
        self.n_epochs.value = self.n_epochs.value + 1
        self.total.value = torch.zeros_like(means)
        self.n_steps.value = torch.tensor(0)
