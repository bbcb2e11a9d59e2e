"""The nearest labelled images by the features of a frozen network."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.models.neighbor_vote import NeighborVote
from detaux_pl.multitask.frozen_classifier import FrozenClassifier


class NearestNeighbors(FrozenClassifier):
    """Votes of the labelled images that are nearest by the features of a frozen network.

    The features of the labelled training images are kept with the network; nothing is fitted but
    the number of neighbours, which is chosen among 1, 2, 5, .., 200 by telling every one of them
    by the others. See `NeighborVote`, and `FrozenClassifier` for the rest.

    Example:
        >>> import torch
        >>> with torch.device("meta"):  # which has shapes alone
        ...     model = NearestNeighbors((3, 64, 64), (10, 4), pretrained=False)
        ...     logits = model(torch.zeros(2, 3, 64, 64))
        >>> [tuple(values.shape) for values in logits]  # principal alone
        [(2, 10)]

    References:
        docs/methods.md, 'Frozen features'.
    """

    def build_head(self, n_classes: int) -> nn.Module:
        """Build what votes."""
        return NeighborVote(self.net.n_features, n_classes)

    def fit_heads(
        self, features: NDArray[np.float32], targets: NDArray[np.int64], data: LabelledDataModule
    ) -> None:
        """Keep the labelled images, and choose the number of neighbours."""
        cast(NeighborVote, self.heads[0]).fit(features, targets[:, 0], self.pca)
