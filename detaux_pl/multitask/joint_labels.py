"""One label for class and group."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.multitask.remedy import Remedy


class JointLabels(Remedy):
    """One backbone and one head that tells the cell, class × group; the class is the marginal.

    With `p(y, a | x)` the softmax over all cells, the loss is `-log p(y, a | x)` and the class of
    an image is told by `p(y | x) = sum_a p(y, a | x)`. The loss is logged as that of the principal
    task, `-log p(y | x)`, and that of the auxiliary one, `-log p(a | y, x)`. An image without a
    group has the first alone.

    Raises:
        ValueError: If there is no auxiliary task, there is no such backbone, or the images are
            too small for it.

    Example:
        >>> model = JointLabels((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]  # class, group
        [(2, 10), (2, 4)]

    References:
        Lee et al. 2020, "Self-supervised label augmentation via input transformations", arXiv
        1910.05872, where a is a transformation that is known of a new image, too.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, task_sizes, backbone, pretrained, **kwargs)
        if self.recipe.smoothing:
            raise ValueError(
                f"recipe.smoothing is {self.recipe.smoothing}, and JointLabels does not smooth its "
                "labels, of which an image may lack some: give it 0."
            )
        self.head = self.build_head(self.n_cells)

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size): the logarithms of sums."""
        joint = self._joint(features)
        tasks = range(1, joint.dim())
        return tuple(joint.logsumexp([other for other in tasks if other != t]) for t in tasks)

    def task_losses(self, features: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Return what the label of each task adds to the loss, after those before it."""
        joint = self._joint(features)
        return self.mean_over_shares(lambda labels: self._added(joint, labels), targets, 2)

    def _added(self, left: Tensor, targets: Tensor) -> Tensor:
        tasks = tuple(range(1, left.dim()))
        told = [left.logsumexp(tasks)]
        for task, labels in zip(tasks, targets.unbind(1), strict=True):
            classes = torch.arange(left.shape[task], device=left.device)
            out = (classes != labels[:, None]) & (labels != IGNORED)[:, None]
            shape = [len(labels), *(-1 if other == task else 1 for other in tasks)]
            left = left.masked_fill(out.view(shape), -math.inf)
            told.append(left.logsumexp(tasks))
        added = [(before - after).sum() for before, after in pairwise(told)]
        return torch.stack(added) / max(len(targets), 1)

    def _joint(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits of all cells, shape (B, *task sizes)."""
        joint: Tensor = self.head(features[0]).unflatten(1, self.sizes)
        return joint
