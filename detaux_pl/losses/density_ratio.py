"""Total correlation by a discriminator of joint and permuted latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detaux_pl.losses.precision import at_least_float32


def total_correlation_ratio(logits: Tensor) -> Tensor:
    """Return the estimate `mean_b (l_b0 - l_b1)` [nats] of the total correlation.

    Args:
        logits: Logits of joint latents, shape (B, 2): class 0 is joint, class 1 permuted.

    Returns:
        Scalar, which a poor discriminator may make negative; in float32 at least.

    Example:
        >>> total_correlation_ratio(torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
        tensor(1.5000)

    References:
        Kim & Mnih 2018, "Disentangling by Factorising", arXiv 1802.05983, eq. 3.
    """
    logits = at_least_float32(logits)
    return (logits[:, 0] - logits[:, 1]).mean()


def discriminator_loss(joint_logits: Tensor, permuted_logits: Tensor) -> Tensor:
    """Return the mean cross-entropy [nats] of joint (class 0) and permuted (class 1) latents.

    Args:
        joint_logits: Logits of joint latents, shape (B, 2).
        permuted_logits: Logits of permuted ones, shape (B', 2).

    Returns:
        Scalar loss, half of each; log 2 where the discriminator cannot tell. In float32 at least.

    Example:
        >>> round(discriminator_loss(torch.zeros(4, 2), torch.zeros(4, 2)).item(), 4)
        0.6931
    """
    halves = []
    for kind, logits in enumerate((joint_logits, permuted_logits)):
        logits = at_least_float32(logits)
        target = torch.full((len(logits),), kind, device=logits.device)
        halves.append(F.cross_entropy(logits, target))
    return 0.5 * (halves[0] + halves[1])
