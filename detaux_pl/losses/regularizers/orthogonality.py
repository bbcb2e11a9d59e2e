"""Slices at right angles to each other."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detaux_pl.losses.info_nce import InfoNCE, unit_vectors
from detaux_pl.losses.regularizers.base import Embeddings, Regularizer


class Orthogonality(Regularizer):
    """Lower the unsigned cosines between different slices, of the same and of different views.

    `R = sum_{k != k'} |cos(z_ik, z_jk')|`, in [0, K (K - 1)]; mean, or sum, over the pairs (i, j)
    of the 2N views, sum over ordered pairs of slices. With `permute` the elements of the slice of
    the lower index are permuted before, all samples and pairs of slices alike, in training alone.

    Args:
        pairs: `all` (i, j), or `own_and_positive`, where j is i itself or the other view of its
            pair. Papers: `all` in the poster; the article leaves it open.
        permute: Permute the elements, so that no order of them evades the penalty.
        fixed: Draw one permutation for the whole training, not one for every step. Papers:
            unknown.
        seed: Seed of the permutations, which depend on it and the step alone; not negative.

    Raises:
        ValueError: If the weight is negative, infinite or NaN, the seed is negative, or a
            permutation is fixed but not wanted.

    Example:
        >>> slices = torch.ones(6, 2, 4)  # two views of three samples, both slices all alike
        >>> labels = torch.tensor([0, 1, 2] * 2)
        >>> batch = Embeddings(slices, labels, labels.expand(2, 6), step=0)
        >>> Orthogonality(weight=0.1)(batch, InfoNCE()).item()
        2.0

    References:
        Burns et al. 2021, "Unsupervised Disentanglement without Autoencoding", eq. 5 and 6, and
        its poster, which has the sum over i and j.
    """

    def __init__(
        self,
        weight: float,
        pairs: Literal["all", "own_and_positive"] = "all",
        permute: bool = False,
        fixed: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(weight)
        if seed < 0:
            raise ValueError(f"the seed of Orthogonality is {seed}: give one that is not negative.")
        if fixed and not permute:
            raise ValueError("fixed is about the permutation: set permute too, or leave it out.")
        self.pairs = pairs
        self.permute = permute
        self.fixed = fixed
        self.seed = seed

    @property
    def name(self) -> str:
        """`orthogonality`, or `permuted_orthogonality`."""
        return "permuted_orthogonality" if self.permute else "orthogonality"

    def forward(self, batch: Embeddings, info_max: InfoNCE) -> Tensor:
        """Return the unweighted scalar R."""
        with torch.autocast(batch.slices.device.type, enabled=False):
            units = unit_vectors(batch.views())
            lower, higher = self._permuted(units, batch.step).unbind(2), units.unbind(2)
            total = units.new_zeros(())
            for k, other in combinations(range(len(higher)), 2):
                # The other order of the slices has the same sum: (i, j) and (j, i) both count.
                total = total + 2 * self._overlaps(lower[k], higher[other], info_max)
            m = len(batch.slices)
            n_pairs = m * m if self.pairs == "all" else 2 * m
            return total / n_pairs if info_max.reduction == "mean" else total

    def _permuted(self, units: Tensor, step: int) -> Tensor:
        if not (self.permute and self.training):
            return units
        sequence = np.random.SeedSequence([self.seed] if self.fixed else [self.seed, step])
        generator = torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
        order = torch.randperm(units.shape[-1], generator=generator)
        return units[..., order.to(units.device)]

    def _overlaps(self, lower: Tensor, higher: Tensor, info_max: InfoNCE) -> Tensor:
        """Sum over the pairs (i, j) of the unsigned products, of slices of shape (2, N, d)."""
        if self.pairs == "own_and_positive":
            own, positive = ((lower * other).sum(-1).abs() for other in (higher, higher.flip(0)))
            return (own + positive).sum()
        total = lower.new_zeros(())
        for rows in torch.split(lower.flatten(0, 1), info_max.chunk_size):
            total = total + checkpoint(
                _overlap, rows, higher.flatten(0, 1), use_reentrant=False, preserve_rng_state=False
            )
        return total


def _overlap(rows: Tensor, others: Tensor) -> Tensor:
    return (rows @ others.T).abs().sum()
