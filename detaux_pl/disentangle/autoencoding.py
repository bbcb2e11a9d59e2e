"""Disentanglers that can paint."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from detaux_pl.disentangle.base import Disentangler


class AutoencodingDisentangler(Disentangler):
    """A disentangler whose codes can be turned back into images, and so be traversed."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Return images, shape (B, C, H, W), about in [0, 1], of codes, shape (B, K, D)."""
