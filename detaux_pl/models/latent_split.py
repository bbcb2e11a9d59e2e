"""A split of a latent space into what tells the classes apart and what is left."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detaux_pl.models.erasure import whiten_by_classes


class LatentSplit(NamedTuple):
    """Linear maps between latent vectors and codes: `s = analysis (z - mean)` and back.

    Args:
        mean: Grand mean, shape (d,).
        analysis: Latent vector to codes, shape (K, D, d).
        synthesis: Codes to the latent vector, shape (K, D, d): z is the mean and the sum of
            `s_ij synthesis_ij`, but for directions that found no place.
    """

    mean: Tensor
    analysis: Tensor
    synthesis: Tensor


def class_gram(latent: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Return the sufficient statistics of the split, which add over batches and ranks.

    They are `A^T A` with `A = [one-hot labels, latent vectors]`: the class counts, the sum of
    the latent vectors per class, and the sum of their outer products.

    Args:
        latent: Latent vectors, shape (n, d).
        labels: Class of each, int64, shape (n,).
        n_classes: Number of classes C.

    Returns:
        Gram matrix of the type of `latent`, shape (C + d, C + d).
    """
    joined = torch.cat([F.one_hot(labels, n_classes).to(latent.dtype), latent], dim=1)
    return joined.T @ joined


def split_latent_space(
    gram: Tensor, n_classes: int, n_subspaces: int, subspace_dim: int, principal: int = 0
) -> LatentSplit:
    """Split a latent space into a between-class part and an uncorrelated residual.

    In the whitened space, where every direction has variance 1, the squared singular values of
    the class means are the shares of variance that the classes explain. The between-class
    directions are those where this share exceeds `(sqrt(C - 1) + sqrt(d))^2 / n`, the most that
    classes without any effect show by chance; there are at most C - 1. Projecting orthogonally
    to them, in the whitened space, erases them at the least change of the latent vectors (an
    orthogonal projection in the latent space itself would take the strongest directions along,
    for class means err most where the variance is large).

    Each part gets its principal axes as coordinates, in descending order: the principal subspace
    the first `subspace_dim` of the between-class part, the others `subspace_dim` each of the
    residual. Where axes run out, zero vectors take their places, such code dimensions being
    constantly 0; axes that find no place are left out.

    Args:
        gram: Sum of `class_gram` over n independent samples, shape (C + d, C + d).
        n_classes: Number of classes C; a class without samples does no harm.
        n_subspaces: Number of subspaces K.
        subspace_dim: Dimensions D of each.
        principal: Index of the principal subspace.

    Returns:
        The split, on the CPU in float64. Within a part the synthesis vectors are orthonormal and
        have their largest component positive.

    Raises:
        ValueError: If the statistics are of no sample.

    References:
        Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form", theorem 4.3:
        the erasure. Johnstone 2001, "On the distribution of the largest eigenvalue in principal
        components analysis": the edge of a spectrum without effects.
    """
    gram = gram.double().cpu()
    counts = gram.diagonal()[:n_classes]
    sums, moments = gram[:n_classes, n_classes:], gram[n_classes:, n_classes:]
    n = counts.sum()
    if n == 0:
        raise ValueError("the statistics are of no sample: add the class_gram of some batches.")
    mean = sums.sum(0) / n
    covariance = moments / n - torch.outer(mean, mean)
    deviations = sums / counts.clamp_min(1)[:, None] - mean
    # In whitened coordinates, the frame of what the classes tell and of what is left.
    whitened = whiten_by_classes(
        covariance.numpy(), ((counts / n).sqrt()[:, None] * deviations).numpy(), whole=True
    )
    directions, readout, correlations = map(torch.from_numpy, whitened)
    chance = ((n_classes - 1) ** 0.5 + len(readout) ** 0.5) ** 2 / n
    rank = int((correlations.square() > chance).sum())
    split = LatentSplit(mean, *torch.zeros(2, n_subspaces, subspace_dim, len(mean)).double())
    others = [i for i in range(n_subspaces) if i != principal]
    for part, subspaces in ((slice(rank), [principal]), (slice(rank, None), others)):
        axes, _, _ = torch.linalg.svd(directions[:, part], full_matrices=False)
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        maps = axes.T @ directions[:, part] @ readout[part]
        for i, analysis, synthesis in zip(
            subspaces, maps.split(subspace_dim), axes.T.split(subspace_dim), strict=False
        ):
            split.analysis[i, : len(analysis)] = analysis
            split.synthesis[i, : len(synthesis)] = synthesis
    return split


def widest_float(device: torch.device) -> torch.dtype:
    """Return the type to add up statistics in: Apple's accelerator has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
