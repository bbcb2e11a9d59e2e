"""Uncorrelated latents of unit variance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detaux_pl.losses.precision import at_least_float32


def dip_penalty(
    mean: Tensor,
    log_variance: Tensor,
    variant: Literal["i", "ii"],
    off_diagonal: float,
    diagonal: float,
) -> Tensor:
    """Return `off_diagonal sum_{k != l} C_kl^2 + diagonal sum_k (C_kk - 1)^2`.

    C is the covariance of the batch, `(1 / B) sum_b`: of the posterior means in variant `i`, and
    with the mean posterior variances on its diagonal, which is that of the latents, in `ii`. In
    float32 at least.

    Args:
        mean: Posterior means, shape (B, K).
        log_variance: Logarithms of the posterior variances, shape (B, K).
        variant: `i` or `ii`.
        off_diagonal: Weight of the covariances.
        diagonal: Weight of the variances' distance to 1.

    Returns:
        Scalar penalty, the weights applied.

    Example:
        >>> mean = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # two latents of variance 1, the same
        >>> dip_penalty(mean, torch.zeros(2, 2), "i", off_diagonal=10.0, diagonal=100.0)
        tensor(20.)

    References:
        Kumar et al. 2018, "Variational Inference of Disentangled Latent Concepts from Unlabeled
        Observations", arXiv 1711.00848, eq. 6 and 7.
    """
    with torch.autocast(mean.device.type, enabled=False):
        mean, log_variance = at_least_float32(mean), at_least_float32(log_variance)
        centred = mean - mean.mean(0)
        covariance = centred.T @ centred / len(mean)
        variances = covariance.diagonal()
        if variant == "ii":
            variances = variances + log_variance.exp().mean(0)
        # Small beside the diagonal, which must not be summed up with it and taken away again.
        between = covariance - covariance.diagonal().diag()
        return off_diagonal * between.square().sum() + diagonal * (variances - 1).square().sum()
