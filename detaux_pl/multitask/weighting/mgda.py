"""The shortest convex combination of the tasks' gradients."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from detaux_pl.multitask.weighting.gramian import GramianName, GramianWeighting

Normalization = Literal["none", "l2", "loss", "loss+"]


class MGDAWeighting(GramianWeighting):
    """Multiple-gradient descent: `argmin_w |sum_t w_t g_t / n_t|` over w >= 0 with sum 1, times T.

    The minimum is the direction in which all (normalised) tasks descend, or zero where there is
    none. Solved exactly, for any number of tasks. A task whose gradient is zero, such as one
    without a label in the batch, gets weight 0, for it would get all of it and training would
    halt.

    Args:
        normalization: What `n_t` is: 1 (`none`, by which the task with the smallest gradient
            weighs most), the norm `|g_t|` (`l2`), the loss (`loss`), or the loss times the norm
            (`loss+`). The weights are those of the losses as they are, as in the official code.

    Raises:
        ValueError: If there is no such normalization.

    Example:
        >>> weighting = MGDAWeighting()
        >>> weighting.setup(n_tasks=2)
        >>> gramian = torch.tensor([[1.0, 0.0], [0.0, 9.0]]).double()  # |g_2| = 3
        >>> weighting.weigh(gramian, torch.ones(2).double()).round(decimals=4)
        tensor([1.8000, 0.2000], dtype=torch.float64)

    References:
        Désidéri 2012, "Multiple-gradient descent algorithm"; Sener and Koltun 2018, arXiv
        1810.04650, eq. 3. Differs from it in: the weights sum to T instead of 1, and the solver
        is exact instead of Frank-Wolfe.
    """

    def __init__(
        self, gramian: GramianName = "features", normalization: Normalization = "none"
    ) -> None:
        super().__init__(gramian)
        if normalization not in ("none", "l2", "loss", "loss+"):
            raise ValueError(
                f"normalization is {normalization!r}: choose `none`, `l2`, `loss` or `loss+`."
            )
        self.normalization = normalization

    def weigh(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Return T times the convex combination, shape (T,)."""
        n_tasks = len(losses)
        norms = gramian.diagonal().clamp(min=0).sqrt().numpy()
        divisors = np.ones(n_tasks)
        if self.normalization in ("loss", "loss+"):
            divisors = divisors * losses.numpy()
        if self.normalization in ("l2", "loss+"):
            divisors = divisors * norms
        moving = np.flatnonzero((norms > 0) & (divisors > 0))
        if not len(moving):
            return torch.ones(n_tasks, dtype=torch.float64)
        inner = gramian.numpy()[np.ix_(moving, moving)]
        cosines = inner / np.outer(norms[moving], norms[moving])
        weights = np.zeros(n_tasks)
        weights[moving] = n_tasks * _shortest(cosines, norms[moving] / divisors[moving])
        return torch.from_numpy(weights)


def _shortest(cosines: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Convex combination of vectors, given by their angles and lengths, of the least norm."""
    # From units, so that short vectors are not lost beside long ones.
    values, axes = np.linalg.eigh(cosines)
    vectors = np.sqrt(values.clip(0))[:, None] * axes.T * (lengths / lengths.min())
    # |V u|^2 + (1 - sum(u))^2 is least over u >= 0 at a multiple of the combination: along each
    # direction the best multiple leaves |V w|^2 / (1 + |V w|^2), which grows with |V w|.
    system = np.vstack([vectors, np.ones(len(lengths))])
    found, _ = nnls(system, np.eye(len(system))[-1])
    weights: np.ndarray = found / found.sum()
    return weights
