"""Weights learnt from the uncertainty of the tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detaux_pl.multitask.weighting.base import Shared, Weighting


class UncertaintyWeighting(Weighting):
    """Homoscedastic uncertainty, classification form: `sum_t exp(-s_t) L_t + s_t / 2`.

    `s_t = log sigma_t^2` is learnt and starts at 0. Its gradient `1/2 - exp(-s_t) L_t` raises the
    weight `exp(-s_t)` of a task whose weighted loss is below 1/2 and lowers it above.

    Example:
        >>> weighting = UncertaintyWeighting()
        >>> weighting.setup(n_tasks=2)
        >>> weighting(torch.tensor([0.3, 2.0])).backward()
        >>> weighting.log_variances.grad  # the first task will weigh more, the second less
        tensor([ 0.2000, -1.5000])

    References:
        Kendall, Gal, Cipolla 2018, arXiv 1705.07115, eq. 10. Differs from the regression form
        `exp(-s) L / 2 + s / 2` of several public implementations, and from `exp(-s) L + s`, which
        the official code of Detaux has in a comment (docs/methods.md, 'Weightings').
    """

    log_variances: nn.Parameter

    def setup(self, n_tasks: int) -> None:
        """Start with the same uncertainty for every task."""
        self.log_variances = nn.Parameter(torch.zeros(n_tasks))

    @property
    def weights(self) -> Tensor:
        """`exp(-s_t)`, shape (T,)."""
        return torch.exp(-self.log_variances)

    def forward(self, losses: Tensor, shared: Shared | None = None) -> Tensor:
        """Combine the losses, shape (T,), to a scalar."""
        return super().forward(losses) + self.log_variances.sum() / 2
