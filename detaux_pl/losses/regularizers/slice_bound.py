"""No more in the whole embedding than in its best slice."""

from __future__ import annotations

import torch
from torch import Tensor

from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.losses.regularizers.base import Embeddings, Regularizer


class SliceBound(Regularizer):
    """Ask of the best slice that it is as good for each kind of positives as the whole embedding.

    `R = relu(min_k L_t(z_k) - L_t(z))` [nats], mean over the distinct labels t of the slices'
    losses, L_t the contrastive loss with the labels t, reduced over the batch as it is.
    `L_t(z)` of the whole embedding has no gradient: the slices rise to it, it does not fall.

    Raises:
        ValueError: If the weight is negative, infinite or NaN.

    Example:
        >>> slices = torch.eye(3).repeat(2, 1)[:, None].repeat(1, 2, 1)  # each slice tells all
        >>> labels = torch.tensor([0, 1, 2] * 2)
        >>> batch = Embeddings(slices, labels, labels.expand(2, 6), step=0)
        >>> SliceBound(weight=1.0)(batch, InfoNCE()).item()
        0.0

    References:
        Burns et al. 2021, "Unsupervised Disentanglement without Autoencoding", section 5, which
        proposes constraints by which "the full representation performs no better than either
        subembedding". The form is ours.
    """

    def forward(self, batch: Embeddings, info_max: InfoNCE) -> Tensor:
        """Return the unweighted scalar R."""
        whole = batch.slices.detach().flatten(1)
        slices = batch.slices.unbind(1)
        gaps = []
        for labels in torch.unique(batch.slice_labels, dim=0):
            best = torch.stack([info_max(own, labels) for own in slices]).min()
            gaps.append((best - info_max(whole, labels)).relu())
        return torch.stack(gaps).mean()
