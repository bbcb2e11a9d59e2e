"""Schedules: plain functions of the epoch or the step."""

from __future__ import annotations

import math
from typing import NamedTuple


class Betas(NamedTuple):
    """Factors of the product-manifold constraints in one epoch; all 0 during the warm-up.

    Args:
        disentanglement: Factor of the distance and sparsity losses (paper: beta 1).
        consistency: Factor of the consistency loss (beta 2).
        regularization: Factor of the regularization loss (beta 3).
    """

    disentanglement: float
    consistency: float
    regularization: float


def past_warm_up(epoch: int, max_epochs: int, share: float = 0.25) -> bool:
    """Say whether `epoch > share * max_epochs`: one epoch more than the share is warm-up.

    Args:
        epoch: Epoch, counted from 0.
        max_epochs: Length of the training, in epochs.
        share: Share of the epochs that only reconstruct. Paper: a quarter.

    Raises:
        ValueError: If `max_epochs` is not positive.

    Example:
        >>> [past_warm_up(epoch, max_epochs=40) for epoch in (10, 11)]
        [False, True]
    """
    return epoch > share * _checked(max_epochs)


def exponential_ramp(epoch: int, max_epochs: int, full_at: float, steepness: float = 25.0) -> float:
    """Return `min(1, exp(steepness * (epoch / max_epochs - full_at)))`.

    Args:
        epoch: Epoch, counted from 0.
        max_epochs: Length of the training, in epochs.
        full_at: Share of the epochs after which the ramp is 1.
        steepness: Rate per training length. Official code: 25.

    Raises:
        ValueError: If `max_epochs` is not positive.

    Example:
        >>> [round(exponential_ramp(e, max_epochs=40, full_at=0.4), 3) for e in (8, 12, 16, 20)]
        [0.007, 0.082, 1.0, 1.0]
    """
    return math.exp(min(0.0, steepness * (epoch - full_at * max_epochs) / _checked(max_epochs)))


def linear_capacity(step: int, maximum: float, steps: int) -> float:
    """Return `maximum * min(1, step / steps)`: a capacity that grows with the training.

    Args:
        step: Training step, counted from 0.
        maximum: Capacity in the end [nats].
        steps: Number of steps after which it is reached.

    Raises:
        ValueError: If `steps` is not positive.

    Example:
        >>> [linear_capacity(step, maximum=25.0, steps=100) for step in (0, 50, 200)]
        [0.0, 12.5, 25.0]

    References:
        Burgess et al. 2018, "Understanding disentangling in beta-VAE", arXiv 1804.03599.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: the capacity needs at least 1 step to grow.")
    return maximum * min(1.0, step / steps)


def product_manifold_betas(epoch: int, max_epochs: int) -> Betas:
    """Return the factors of the constraints in an epoch.

    The disentanglement ramp is full after 40 % of the epochs, the consistency ramp after 50 %;
    the regularization has what the first leaves: it starts near 1 and fades.

    Args:
        epoch: Epoch, counted from 0.
        max_epochs: Length of the training, in epochs.

    Raises:
        ValueError: If `max_epochs` is not positive.

    Example:
        >>> [round(beta, 4) for beta in product_manifold_betas(epoch=11, max_epochs=40)]
        [0.0439, 0.0036, 0.9561]

    References:
        Skenderi et al., Detaux, sections 3.2 and 5. The paper calls all three betas a warm-up;
        as in its code, the third is one minus the first.
    """
    if not past_warm_up(epoch, max_epochs):
        return Betas(0.0, 0.0, 0.0)
    ramp = exponential_ramp(epoch, max_epochs, full_at=0.4)
    return Betas(ramp, exponential_ramp(epoch, max_epochs, full_at=0.5), 1.0 - ramp)


def _checked(max_epochs: int) -> int:
    if max_epochs < 1:
        raise ValueError(
            f"max_epochs is {max_epochs}: the schedule needs the length of the training, at "
            "least 1 epoch; set trainer.max_epochs."
        )
    return max_epochs
