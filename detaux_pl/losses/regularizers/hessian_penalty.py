"""No curvature of the contrastive loss between the slices."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detaux_pl.losses.info_nce import InfoNCE
from detaux_pl.losses.regularizers.base import Embeddings, Regularizer

_TINY = 1e-12


class HessianPenalty(Regularizer):
    """Lower the blocks between slices of the Hessian of the contrastive loss of the whole z.

    With G the gradient of the sum of that loss over all anchors, shape (M, K d), and g_ik slice k
    of its row i, in units of 1 / |z|:

    - `gram`: `H = G^T G / M`, the Gauss-Newton approximation, mean over the M = 2N views;
      `R = sqrt(sum_{k < k'} ||H_kk'||_F^2 + 1e-12)`. The products of different views may cancel.
    - `per_sample`: `R = sqrt(sum_{k < k'} |g_ik|^2 |g_ik'|^2 + 1e-12)`, mean over the views,
      which only a slice with a small gradient makes small.

    A sum over the views in place of the means where the reduction is `sum`. It is 0 too where the
    contrastive loss is flat: `gradient`, the mean of |g_i|, is to be logged beside it.

    Args:
        form: `gram` or `per_sample`.
        wrt: Whether G is by the `raw` z, which probes see, or the `normalized` one.

    Raises:
        ValueError: If the weight is negative, infinite or NaN.

    Example:
        >>> slices = torch.linspace(-1, 1, 48).sin().view(6, 2, 4) * torch.tensor([[1.0], [0.0]])
        >>> labels = torch.tensor([0, 1, 2] * 2)
        >>> batch = Embeddings(slices, labels, labels.expand(2, 6), step=0)
        >>> round(HessianPenalty(weight=0.1)(batch, InfoNCE()).item(), 4)  # slice 1 plays no part
        0.0

    References:
        Burns et al. 2021, "Unsupervised Disentanglement without Autoencoding", eq. 7 and 8, and
        its poster. Both leave open what the gradient's product runs over. 1e-12 is ours: the root
        has no slope at 0.
    """

    def __init__(
        self,
        weight: float,
        form: Literal["gram", "per_sample"] = "gram",
        wrt: Literal["raw", "normalized"] = "raw",
    ) -> None:
        super().__init__(weight)
        self.form = form
        self.wrt: Literal["raw", "normalized"] = wrt

    def forward(self, batch: Embeddings, info_max: InfoNCE) -> Tensor:
        """Return the unweighted scalar R."""
        n_slices, dim = batch.slices.shape[1:]
        with torch.autocast(batch.slices.device.type, enabled=False):
            gradient = info_max.gradient(batch.slices.flatten(1), batch.labels, self.wrt)
            self.diagnostics = {"gradient": gradient.detach().norm(dim=1).mean()}
            if self.form == "gram":
                hessian = gradient.T @ gradient
                if info_max.reduction == "mean":
                    hessian = hessian / len(gradient)
                blocks = hessian.view(n_slices, dim, n_slices, dim).square().sum((1, 3))
                return (blocks.triu(1).sum() + _TINY).sqrt()
            squares = gradient.view(-1, n_slices, dim).square().sum(-1)
            blocks = squares[:, :, None] * squares[:, None]
            roots = (blocks.triu(1).sum((1, 2)) + _TINY).sqrt()
            return roots.mean() if info_max.reduction == "mean" else roots.sum()
