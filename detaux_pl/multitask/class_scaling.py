"""Factors of the probabilities of the classes, by which the worst cell does best."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.metrics.worst_cell import worst_accuracy
from detaux_pl.multitask.refitted import Refitted

_STEP, _STEPS = 0.05, 100
"""Logarithms of factors that are tried: from -5 to 5."""
_ROUNDS = 10
"""Most rounds over all classes."""


class ClassScaling(Refitted):
    """One backbone and one head, and after the training a factor for the probability of each class.

    The factors, as logarithms added to the logits, are those by which the network does best in the
    worst cell, class × group, of the validation images at its best epoch, see `choose_scales`. It
    needs no training of its own, and says how much of another remedy's gain is a matter of
    preferring some classes. Validation images without a group do not count.

    Raises:
        ValueError: If there is no auxiliary task, there is no such backbone, or the images are
            too small for it.

    Example:
        >>> model = ClassScaling((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]  # class, group
        [(2, 10), (2, 4)]

    References:
        Seo, Han 2025, "Re-evaluating group robustness via adaptive class-specific scaling", arXiv
        2412.15311, the scaling without its instance-wise form. Ours: the values that are tried.
    """

    log_scales: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, task_sizes, backbone, pretrained, **kwargs)
        self.register_buffer("log_scales", torch.zeros(self.sizes[0]))

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size), those of the classes scaled."""
        principal, *others = super().classify(features)
        return (principal + self.log_scales, *others)

    def fit_to(self, features: Tensor, labels: Tensor, cells: Tensor) -> None:
        """Choose the factors."""
        logits: NDArray[np.float64] = self.heads[0](features).double().cpu().numpy()
        own, of = labels.cpu().numpy(), cells.cpu().numpy()
        self.log_scales.copy_(torch.from_numpy(choose_scales(logits, own, of, self.n_cells)))


def choose_scales(
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    cells: NDArray[np.int64],
    n_cells: int,
) -> NDArray[np.float64]:
    """Choose what is added to the logits of each class, so that the worst cell does best.

    Class after class, and round after round, each takes of -5, -4.95, ..., 5 the value by which
    `worst_accuracy` is largest, all others being as they are; the smallest of those that are as
    good, and none unless it is better than what there is. The end is a round without a change.

    Args:
        logits: Shape (n, classes).
        labels: Class of each image, shape (n,).
        cells: Cell of each image, or `IGNORED` for those that do not count, shape (n,).
        n_cells: Number of cells.

    Returns:
        Shape (classes,), its mean 0.

    Example:
        >>> labels = np.arange(40) // 20
        >>> logits = np.stack([np.ones(40), 0.6 * labels], axis=1)
        >>> scales = choose_scales(logits, labels, cells=labels, n_cells=2)
        >>> bool(((logits + scales).argmax(axis=1) == labels).all())
        True
    """
    known = cells != IGNORED
    logits, labels, cells = logits[known], labels[known], cells[known]
    total = np.bincount(cells, minlength=n_cells)
    grid = _STEP * np.arange(-_STEPS, _STEPS + 1)
    places = len(grid) + 1
    answers = logits.argmax(axis=1) == labels
    best = worst_accuracy(np.bincount(cells, answers, n_cells), total)
    scales = np.zeros(logits.shape[1])
    for _ in range(_ROUNDS):
        before = best
        for k in range(len(scales)):
            others = logits + scales
            others[:, k] = -np.inf
            answer = others.argmax(axis=1)
            bound = others[np.arange(len(others)), answer]
            # The first value by which the class is the answer; with those before, the other one is.
            first = np.searchsorted(grid, bound - logits[:, k], side="right")
            own, other = (labels == k).astype(float), (answer == labels).astype(float)
            change = np.bincount(cells * places + first, own - other, n_cells * places)
            change = change.reshape(n_cells, places)
            change[:, 0] += np.bincount(cells, other, n_cells)
            values = worst_accuracy(change.cumsum(axis=1)[:, :-1].T, total)
            if values.max() > best:
                best, scales[k] = values.max(), grid[values.argmax()]
        if best == before:
            break
    centred: NDArray[np.float64] = scales - scales.mean()
    return centred
