"""What a weighting is: from the losses of the tasks to the loss that is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shared:
    """What all tasks of a model have in common, for weightings that compare their gradients.

    Args:
        features: Tensors of the present batch, B rows each, through which alone the losses
            depend on `parameters`.
        parameters: The parameters behind them.
    """

    features: Sequence[Tensor]
    parameters: Sequence[nn.Parameter]


class Weighting(nn.Module, ABC):
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

    def forward(self, losses: Tensor, shared: Shared | None = None) -> Tensor:
        """Combine the losses to a scalar.

        Args:
            losses: Loss of each task on this rank's batch, shape (T,).
            shared: What the tasks have in common; only some weightings need it.
        """
        return torch.dot(self.weights, losses)

    def end_epoch(self) -> None:
        """Take note that a training epoch has ended; called on every rank."""


def refuse_one_task(weighting: Weighting, n_tasks: int) -> None:
    """Check the number of tasks, for a weighting that compares them.

    Raises:
        ValueError: If there is one task.
    """
    if n_tasks < 2:
        raise ValueError(
            f"{type(weighting).__name__} weighs tasks against each other and there is {n_tasks}: "
            "give the data module `labels` or an `auxiliary` factor, or take EqualWeighting."
        )
