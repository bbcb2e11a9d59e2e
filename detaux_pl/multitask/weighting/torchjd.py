"""Any weighting of the package torchjd that needs the gradients' Gramian alone."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from detaux_pl.multitask.weighting.gramian import GramianName, GramianWeighting

_NAMES = (
    "UPGradWeighting",
    "AlignedMTLWeighting",
    "CAGradWeighting",
    "DualProjWeighting",
    "FairGradWeighting",
    "IMTLGWeighting",
    "KrumWeighting",
    "MGDAWeighting",
)
"""Functions of the Gramian alone: others remember or draw what no checkpoint or rank shares."""
_ABSOLUTE = ("FairGradWeighting", "IMTLGWeighting", "KrumWeighting", "MGDAWeighting")
"""Those whose weights do not fall as the number of tasks grows, as those of a mean do."""


class TorchJDWeighting(GramianWeighting):
    """A weighting of torchjd, times T: its weights are made for a mean of the losses.

    A task whose gradient is zero, such as one without a label in the batch, is left out and gets
    weight 0: to several of the rules it is a direction that no step may leave, or the shortest of
    all, and the others would learn nothing. They are weighed as if they were all there are; where
    they are too few for the rule, they weigh the same.

    Args:
        weighting: Name of its class in `torchjd.aggregation`: one of those that are a function of
            the Gramian alone. UPGrad, the default, projects each gradient onto the cone of the
            directions in which no task gets worse, and takes the mean.
        gramian: With respect to what the gradients are taken: `features` (cheap) or `parameters`
            (as in most papers), see `GramianWeighting`.
        arguments: Numbers that the class is made with, such as `{"c": 0.4}` for `CAGradWeighting`.

    Raises:
        ValueError: If torchjd, or a solver that it needs, is not installed, or it has no such
            weighting.

    Example:
        >>> weighting = TorchJDWeighting("UPGradWeighting")
        >>> weighting.setup(n_tasks=2)
        >>> gramian = torch.tensor([[1.0, -0.5], [-0.5, 1.0]]).double()  # gradients that conflict
        >>> weighting.weigh(gramian, torch.ones(2).double()).round(decimals=2)
        tensor([1.5000, 1.5000], dtype=torch.float64)

    References:
        Quinton and Rey 2024, "Jacobian Descent for Multi-Objective Optimization", arXiv
        2406.16232; the documentation of each class names its paper.
    """

    def __init__(
        self,
        weighting: str = "UPGradWeighting",
        gramian: GramianName = "features",
        arguments: dict[str, int | float] | None = None,
    ) -> None:
        super().__init__(gramian)
        self.weighting = weighting
        aggregation = _aggregation()
        names = [name for name in _NAMES if hasattr(aggregation, name)]
        if weighting not in names:
            raise ValueError(
                f"TorchJDWeighting has no {weighting!r}: choose one of {', '.join(names)}."
            )
        try:
            self.rule = getattr(aggregation, weighting)(**(arguments or {}))
        except (ImportError, TypeError, ValueError) as error:
            raise ValueError(f"torchjd's {weighting} with {arguments or {}}: {error}") from None

    def setup(self, n_tasks: int) -> None:
        """Start with equal weights.

        Raises:
            ValueError: If there is one task, or torchjd's weighting is not for this number.
        """
        super().setup(n_tasks)
        try:
            with torch.device("cpu"):  # a model may be built where there are no values
                self.rule(torch.eye(n_tasks, dtype=torch.float64))
        except (ImportError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"torchjd's {self.weighting} does not weigh {n_tasks} tasks: {error}"
            ) from None

    def weigh(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Return T times torchjd's weights, shape (T,); 0 for tasks without gradient."""
        n_tasks, moving = len(losses), gramian.diagonal() > 0
        n_moving = int(moving.sum())
        if not n_moving:
            return torch.ones(n_tasks, dtype=torch.float64)
        with torch.no_grad():
            try:
                inner: Tensor = self.rule(gramian[moving][:, moving])
            except ValueError:
                if n_moving == n_tasks:
                    raise
                inner = torch.full((n_moving,), 1 / n_moving, dtype=torch.float64)
        weights = torch.zeros(n_tasks, dtype=torch.float64)
        weights[moving] = (n_tasks if self.weighting in _ABSOLUTE else n_moving) * inner
        return weights


def _aggregation() -> Any:
    """Return the module of the optional package."""
    try:
        return importlib.import_module("torchjd.aggregation")
    except ImportError:
        raise ValueError(
            'TorchJDWeighting needs the package torchjd: pip install "detaux_pl[torchjd]".'
        ) from None
