"""All tasks weigh the same."""

from __future__ import annotations

import torch
from torch import Tensor

from detaux_pl.multitask.weighting.base import Weighting


class EqualWeighting(Weighting):
    """The sum of the losses: `sum_t L_t`.

    Example:
        >>> weighting = EqualWeighting()
        >>> weighting.setup(n_tasks=2)
        >>> weighting(torch.tensor([1.0, 2.0]))
        tensor(3.)
    """

    _weights: Tensor

    def setup(self, n_tasks: int) -> None:
        """Take any number of tasks."""
        self.register_buffer("_weights", torch.ones(n_tasks), persistent=False)

    @property
    def weights(self) -> Tensor:
        """Ones, shape (T,)."""
        return self._weights
