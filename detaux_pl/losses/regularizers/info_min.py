"""Little mutual information between the slices."""

from __future__ import annotations

from itertools import permutations
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detaux_pl.losses.info_nce import InfoNCE, unit_vectors
from detaux_pl.losses.regularizers.base import Embeddings, Regularizer


class InfoMin(Regularizer):
    """Lower an InfoNCE bound of the mutual information between the slices of the same view.

    `R = sum_{k != k'} [s(z_ik, z_ik') - log sum_{a in A} exp s(z_ik, z_a)]` [nats], with
    `s = cos / temperature` and a in the view of i alone; mean, or sum, over all 2N views i, sum
    over ordered pairs of slices. A lower bound is lowered: that it competes with the contrastive
    loss, and says little of the mutual information itself, is the papers' finding.

    Args:
        variant: A of the sample i and the slices k, k': `poster`, slice k of all other samples;
            `cross`, slice k' of all samples, which makes R minus an InfoNCE between slices.

    Raises:
        ValueError: If the weight is negative, infinite or NaN; of a `poster` batch with one
            sample, which has no others.

    Example:
        >>> slices = torch.ones(6, 2, 4)  # two views of three samples, all alike
        >>> labels = torch.tensor([0, 1, 2] * 2)
        >>> batch = Embeddings(slices, labels, labels.expand(2, 6), step=0)
        >>> round(InfoMin(weight=0.1)(batch, InfoNCE()).item(), 4)  # 2 log(1 / 2)
        -1.3863

    References:
        Burns et al. 2021, "Unsupervised Disentanglement without Autoencoding", eq. 4, and its
        poster, which has the sum over i. Differs from the poster in: A leaves out i itself.
    """

    def __init__(self, weight: float, variant: Literal["poster", "cross"] = "poster") -> None:
        super().__init__(weight)
        self.variant = variant

    def forward(self, batch: Embeddings, info_max: InfoNCE) -> Tensor:
        """Return the unweighted scalar R."""
        with torch.autocast(batch.slices.device.type, enabled=False):
            views = unit_vectors(batch.views())
            _, n, n_slices, _ = views.shape
            if self.variant == "poster" and n == 1:
                raise ValueError(
                    "InfoMin compares a sample with the others of the batch, which holds one: "
                    "give at least 2, or take variant cross."
                )
            between = torch.einsum("vnkd,vnld->kl", views, views) / info_max.temperature
            total = between.sum() - between.trace()
            for view in views:
                slices = view.unbind(1)
                if self.variant == "poster":
                    # The same denominator for each of the other slices.
                    for own in slices:
                        total = total - (n_slices - 1) * self._log_sums(own, own, info_max)
                else:
                    for own, other in permutations(slices, 2):
                        total = total - self._log_sums(own, other, info_max)
            return total / (2 * n) if info_max.reduction == "mean" else total

    def _log_sums(self, own: Tensor, others: Tensor, info_max: InfoNCE) -> Tensor:
        """Sum over n samples of the logarithm of their denominator."""
        total = own.new_zeros(())
        for start in range(0, len(own), info_max.chunk_size):
            rows = own[start : start + info_max.chunk_size] / info_max.temperature
            skipped = start if self.variant == "poster" else None
            total = total + checkpoint(
                _log_sum, rows, others, skipped, use_reentrant=False, preserve_rng_state=False
            )
        return total


def _log_sum(rows: Tensor, others: Tensor, skipped: int | None) -> Tensor:
    """Sum of log-sum-exp; row i leaves out the other numbered `skipped + i`."""
    similar = rows @ others.T
    if skipped is not None:
        itself = torch.zeros_like(similar, dtype=torch.bool)
        itself.diagonal(skipped).fill_(True)
        similar = similar.masked_fill(itself, -torch.inf)
    return similar.logsumexp(1).sum()
