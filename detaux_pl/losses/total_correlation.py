"""The parts of the divergence from the prior, estimated within a batch."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from detaux_pl.losses.precision import at_least_float32

Estimator = Literal["weighted", "stratified"]

_LOG_2PI = math.log(2 * math.pi)


class Decomposition(NamedTuple):
    """The three parts of the mean divergence `E_x KL(q(z|x) || p(z))` [nats]; scalars.

    Args:
        mutual_information: `KL(q(z, x) || q(z) p(x))`, of latents and images.
        total_correlation: `KL(q(z) || prod_k q(z_k))`: 0 where the latents are independent.
        dimension_wise_kl: `sum_k KL(q(z_k) || p(z_k))`.
    """

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise_kl: Tensor


def decompose_kl(
    latents: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    n_samples: int,
    estimator: Estimator = "weighted",
) -> Decomposition:
    """Decompose the divergence of the posteriors from the prior N(0, 1).

    All parts are means over the batch of logarithms of densities at the sampled latents; their
    sum is the sampled divergence `mean_j [log q(z_j|x_j) - log p(z_j)]` exactly. The densities
    of the whole data set are estimated from the B images of the batch,
    `log q(z_j) = log sum_i w_ji q(z_j|x_i)`, and `log q(z_jk)` likewise for each latent:

    - `weighted`: `w_ji = 1 / (N B)`, biased: it underestimates the densities.
    - `stratified`: `w_jj = 1 / N`, one other weight `(N - M) / (N M)` and `1 / M` for the rest,
      with M = B - 1; unbiased, the rows sum to 1.

    Takes `B B K` numbers of memory, several times with the gradient: 50 MB each for 64 images and
    3,072 latents. Computed in float32 at least.

    Args:
        latents: A sample z of each posterior, shape (B, K).
        mean: Means of the posteriors, shape (B, K).
        log_variance: Logarithms of their variances, shape (B, K).
        n_samples: Number N of training images, at least B.
        estimator: `weighted` or `stratified`.

    Raises:
        ValueError: If N is less than B, or a stratified batch has one image only.

    Example:
        >>> latents = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # one bit, twice
        >>> narrow = torch.full((2, 2), -4.0)
        >>> parts = decompose_kl(latents, latents, narrow, n_samples=2, estimator="stratified")
        >>> round(parts.total_correlation.item(), 3)  # log 2
        0.693

    References:
        Chen et al. 2018, "Isolating Sources of Disentanglement in VAEs", arXiv 1802.04942, eq. 2
        and appendix C. Differs from its code in: the diagonal has the weight 1 / N, where the
        code has it in the first column; and a weight counts once for `q(z)`, where the code has
        it once for each latent.
    """
    b = len(latents)
    if n_samples < b:
        raise ValueError(
            f"n_samples is {n_samples} and the batch has {b} images: give the number of training "
            "images, at least that of a batch."
        )
    if estimator == "stratified" and b < 2:
        raise ValueError(
            "the stratified estimator compares an image with the others of its batch, which has "
            "one: give at least 2, or take weighted."
        )
    with torch.autocast(latents.device.type, enabled=False):
        latents, mean, log_variance = map(at_least_float32, (latents, mean, log_variance))
        # j = samples, i = posteriors, k = latents
        own = _log_normal(latents[:, None], mean, log_variance)  # j, i, k
        weights = _log_weights(b, n_samples, estimator, latents)  # j, i
        joint = torch.logsumexp(own.sum(2) + weights, dim=1)
        marginals = torch.logsumexp(own + weights[..., None], dim=1).sum(1)
        conditional = own.diagonal().sum(0)
        prior = _log_normal(latents, torch.zeros_like(mean), torch.zeros_like(mean)).sum(1)
        return Decomposition(
            (conditional - joint).mean(), (joint - marginals).mean(), (marginals - prior).mean()
        )


def _log_normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    squares = (x - mean).square() * (-log_variance).exp()
    return -0.5 * (squares + log_variance + _LOG_2PI)


def _log_weights(b: int, n: int, estimator: Estimator, like: Tensor) -> Tensor:
    """Logarithms of the weights of the posteriors, shape (B, B)."""
    if estimator == "weighted":
        return like.new_full((b, b), -math.log(n * b))
    m = b - 1
    weights = like.new_full((b, b), -math.log(m))
    rows = torch.arange(b, device=like.device)
    weights[rows, (rows + 1) % b] = math.log((n - m) / (n * m))
    weights[rows, rows] = -math.log(n)
    return weights
