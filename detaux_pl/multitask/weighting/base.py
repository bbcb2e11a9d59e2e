"""What a weighting is: from the losses of the tasks to the loss that is minimised."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn


class Weighting(nn.Module):
    """Combine the losses of T tasks: `sum_t w_t L_t`, and what a subclass adds.

    A weighting is made without knowing the tasks; the model that gets it calls `setup` once, in
    its `__init__`, so that parameters exist before an optimizer or a checkpoint asks for them.
    The model excludes its parameters from weight decay.
    """

    @abstractmethod
    def setup(self, n_tasks: int) -> None:
        """Make what depends on the number of tasks.

        Raises:
            ValueError: If the weighting is for another number of tasks.
        """

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """Present weight of each task, shape (T,)."""

    def forward(self, losses: Tensor) -> Tensor:
        """Combine the losses, shape (T,), to a scalar."""
        return torch.dot(self.weights, losses)
