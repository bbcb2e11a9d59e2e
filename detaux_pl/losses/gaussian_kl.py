"""Divergence of a Gaussian posterior from the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from detaux_pl.losses.precision import at_least_float32


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return `KL(N(m, exp(v)) || N(0, 1)) = (m^2 + exp(v) - v - 1) / 2` [nats] of every latent.

    Args:
        mean: Means m, shape (B, K).
        log_variance: Logarithms v of the variances, shape (B, K).

    Returns:
        Divergences, shape (B, K), in float32 at least.

    Example:
        >>> gaussian_kl(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
        tensor([[0., 2.]])

    References:
        Kingma & Welling 2014, arXiv 1312.6114, appendix B.
    """
    mean, log_variance = at_least_float32(mean), at_least_float32(log_variance)
    with torch.autocast(mean.device.type, enabled=False):
        return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1)
