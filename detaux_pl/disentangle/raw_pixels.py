"""Raw pixels as codes: what a disentangler has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detaux_pl.data.batch import Batch
from detaux_pl.disentangle.base import Disentangler


class RawPixels(Disentangler):
    """Codes that are the pixels as they are: one subspace, no principal one, nothing trained.

    `fit` goes through the motions and leaves a checkpoint, as the stages that follow expect: one
    batch is enough.

    Example:
        >>> RawPixels().encode(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 1, 768])
    """

    principal_subspace: int | None = None

    def __init__(self) -> None:
        super().__init__(lr=1.0, weight_decay=0.0, optimizer="sgd", lr_schedule="constant")
        # Lightning writes a checkpoint only after a step, and DDP wraps no model without weights.
        self._unused = nn.Parameter(torch.zeros(()))

    @property
    def n_subspaces(self) -> int:
        """Number of subspaces: one."""
        return 1

    def encode(self, images: Tensor) -> Tensor:
        """Return the pixels, shape (B, 1, C * H * W), of images, shape (B, C, H, W)."""
        return images.flatten(1)[:, None]

    def training_step(self, batch: Batch, batch_idx: int = 0) -> Tensor:
        """Return a loss of zero with a gradient of zero."""
        return self._unused.square()

    def validation_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Do nothing: there is nothing to measure."""

    def test_step(self, batch: Batch, batch_idx: int = 0) -> None:
        """Do nothing: there is nothing to measure."""
