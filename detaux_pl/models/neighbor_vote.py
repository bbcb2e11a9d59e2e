"""Classification by the nearest of known vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from detaux_pl.models.principal_axes import project

_NUMBERS = (1, 2, 5, 10, 20, 50, 100, 200)
"""Numbers of neighbours to choose from."""
_TEMPERATURE = 0.07
"""Of the votes: that of Wu et al. 2018, and of Caron et al. 2021 (DINO, arXiv 2104.14294)."""
_DOUBT = 0.02
"""Share of an even guess in the probabilities, for neighbours of one class are no certainty."""
_BLOCK = 1024
"""Vectors to compare with all others at a time."""


class NeighborVote(nn.Module):
    """Log-probabilities of classes by the votes of the k nearest known vectors.

    Vectors are centred, described by principal axes and divided by their lengths: no axis by its
    own deviation, which would make the noise of weak ones as large as what strong ones tell. Of the
    k of the highest cosine each votes for its class with the weight `exp(cosine / 0.07)`; with the
    share s of a class in the votes, `p = 0.98 s + 0.02 / C`.

    Args:
        n_features: Dimensions of the vectors.
        n_classes: Number of classes C.

    Example:
        >>> vectors = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
        >>> vote = NeighborVote(2, 2)
        >>> vote.fit(vectors, np.array([0, 0, 1, 1]), pca=2)
        >>> vote(torch.tensor([[0.2, 0.8]])).exp()
        tensor([[0.9900, 0.0100]])

    References:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
        arXiv 1805.01978. Differs from it in: centring, axes and the even guess.
    """

    mean: Tensor
    axes: Tensor
    known: Tensor
    labels: Tensor
    votes: Tensor

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("axes", torch.zeros(n_features, 1))
        self.register_buffer("known", torch.zeros(1, 1))
        self.register_buffer("labels", torch.zeros(1, dtype=torch.int64))
        # One for each of the k: the number is in the shape, which a graph knows when it is traced.
        self.register_buffer("votes", torch.ones(1))
        self.register_load_state_dict_pre_hook(_take_shapes)  # type: ignore[no-untyped-call]

    def fit(
        self, features: NDArray[np.floating], labels: NDArray[np.integer], pca: int = 200
    ) -> None:
        """Keep the vectors that have a label, and choose k: each of them is told by the others.

        Of the numbers of neighbours, the one with the highest log-likelihood is taken.

        Args:
            features: Of all training images, labelled or not, shape (n, F).
            labels: Label of each, negative where there is none, shape (n,).
            pca: Principal axes of the features, at most.
        """
        components, mean, axes = project(features, pca)
        given = labels >= 0
        place = self.mean.device
        self.mean, self.axes = (torch.from_numpy(x).float().to(place) for x in (mean, axes))
        self.known = F.normalize(torch.from_numpy(components[given]).float().to(place))
        self.labels = torch.from_numpy(labels[given]).to(place, torch.int64)
        self.votes = torch.ones(self._choose(), device=place)

    def forward(self, features: Tensor) -> Tensor:
        """Return the log-probabilities of vectors, shape (B, F): shape (B, C)."""
        cosines = F.normalize((features - self.mean) @ self.axes) @ self.known.T
        nearest, of = cosines.topk(len(self.votes), dim=1)
        weights = (nearest / _TEMPERATURE).softmax(dim=1) * self.votes
        shares = weights.new_zeros(features.shape[0], self.n_classes)
        shares = shares.scatter_add(1, self.labels[of], weights)
        return ((1 - _DOUBT) * shares + _DOUBT / self.n_classes).log()

    def _choose(self) -> int:
        numbers = [k for k in _NUMBERS if k < len(self.known)]
        if not numbers:
            return 1
        scores = torch.zeros(len(numbers), dtype=torch.float64, device=self.known.device)
        for start in range(0, len(self.known), _BLOCK):
            rows = torch.arange(start, min(start + _BLOCK, len(self.known)))
            cosines = self.known[rows] @ self.known.T
            cosines[rows - start, rows] = -torch.inf  # nobody votes for itself
            nearest, of = cosines.topk(numbers[-1], dim=1)
            weights = ((nearest - nearest[:, :1]) / _TEMPERATURE).exp()
            right = weights * (self.labels[of] == self.labels[rows, None])
            last = [k - 1 for k in numbers]
            shares = (right.cumsum(dim=1) / weights.cumsum(dim=1))[:, last]
            scores += ((1 - _DOUBT) * shares + _DOUBT / self.n_classes).log().sum(dim=0)
        return numbers[int(scores.argmax())]


def _take_shapes(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for as many vectors as there are to be loaded."""
    for name, buffer in module.named_buffers():
        value = state.get(prefix + name)
        if value is not None:
            setattr(module, name, buffer.new_empty(value.shape))
