"""Heads: from features to the logits of one task."""

from __future__ import annotations

from torch import nn


class ClassificationHead(nn.Sequential):
    """Two linear layers: Linear - Dropout - ReLU - Linear.

    Maps features, shape (B, n_features), to logits, shape (B, n_classes).

    Args:
        n_features: Length of the flattened feature map.
        n_classes: Number of classes of the task.
        hidden: Width of the hidden layer. Paper: 512.
        dropout: Share of hidden units that are dropped in training. Paper: 0.1.

    Example:
        >>> import torch
        >>> ClassificationHead(n_features=32, n_classes=10)(torch.zeros(2, 32)).shape
        torch.Size([2, 10])

    Raises:
        ValueError: If `hidden` is not positive.

    References:
        Skenderi et al., Detaux, official code (docs/methods.md, 'Backbones and heads').
    """

    def __init__(
        self, n_features: int, n_classes: int, hidden: int = 512, dropout: float = 0.1
    ) -> None:
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}: give the heads at least 1 hidden unit.")
        super().__init__(
            nn.Linear(n_features, hidden),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Linear(hidden, n_classes),
        )
