"""An orthogonal split of a latent space into what tells the classes apart and what is left."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NEGLIGIBLE = 1e-12
"""Share of the total variance below which a direction does not tell classes apart."""


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
) -> tuple[Tensor, Tensor]:
    """Split a latent space into a between-class subspace and its residual, in orthogonal parts.

    The between-class directions are those that the class means span around the grand mean, at
    most C - 1 of them, in the order of the variance (weighted by class size) of the means along
    them. The principal subspace gets the first `subspace_dim` of them. The others share the
    orthogonal complement of *all* between-class directions, where all class means coincide: its
    principal axes, in descending order, `subspace_dim` to each. Where directions run out, zero
    vectors take their places: such code dimensions are constantly 0.

    Args:
        gram: Sum of `class_gram`, shape (C + d, C + d).
        n_classes: Number of classes C; a class without samples does not count.
        n_subspaces: Number of subspaces K.
        subspace_dim: Dimensions D of each.
        principal: Index of the principal subspace.

    Returns:
        Grand mean, shape (d,), and basis, shape (K, D, d), whose non-zero vectors are
        orthonormal and have their largest component positive; both on the CPU in float64.

    Raises:
        ValueError: If the statistics are of no sample.
    """
    gram = gram.double().cpu()
    counts = gram.diagonal()[:n_classes]
    sums, moments = gram[:n_classes, n_classes:], gram[n_classes:, n_classes:]
    n, d = counts.sum(), moments.shape[0]
    if n == 0:
        raise ValueError("the statistics are of no sample: add the class_gram of some batches.")
    mean = sums.sum(0) / n
    covariance = moments / n - torch.outer(mean, mean)
    deviations = sums / counts.clamp_min(1)[:, None] - mean
    _, spreads, directions = torch.linalg.svd((counts / n).sqrt()[:, None] * deviations)
    rank = int((spreads.square() > _NEGLIGIBLE * covariance.trace()).sum())
    rank = min(rank, int((counts > 0).sum()) - 1)
    between, complement = directions[:rank], directions[rank:]
    # Solving inside the complement keeps its axes orthogonal to the between-class directions
    # even where the latent space has directions without variance.
    _, axes = torch.linalg.eigh(complement @ covariance @ complement.T)
    residual = axes.flip(1).T @ complement
    basis = torch.zeros(n_subspaces, subspace_dim, d, dtype=gram.dtype)
    _fill(basis[principal], between)
    others = torch.zeros((n_subspaces - 1) * subspace_dim, d, dtype=gram.dtype)
    _fill(others, residual)
    parts = others.view(n_subspaces - 1, subspace_dim, d)
    basis[:principal], basis[principal + 1 :] = parts[:principal], parts[principal:]
    return mean, basis


def _fill(places: Tensor, directions: Tensor) -> None:
    """Put the first directions into the first places, each with its largest component positive."""
    n = min(len(places), len(directions))
    largest = directions.abs().argmax(1, keepdim=True)
    places[:n] = (directions * directions.gather(1, largest).sign())[:n]
