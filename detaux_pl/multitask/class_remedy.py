"""What remedies share that have a head for the class."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from detaux_pl.multitask.remedy import Remedy


class ClassRemedy(Remedy):
    """The network of `SingleTask`, and beside it a head for each auxiliary task.

    These tell the groups of new images: they learn from the features and do not change them.

    Raises:
        ValueError: If there is no auxiliary task, there is no such backbone, or the images are
            too small for it.
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
        self.heads = nn.ModuleList(self.build_head(size) for size in self.sizes)

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size)."""
        return tuple(head(features[0]) for head in self.heads)

    def task_losses(self, features: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Return the training loss of each task, shape (T,)."""
        principal, *others = self.heads
        losses = [self.principal_loss(principal(features[0]), targets)]
        groups = self.features_of_groups(features[0])
        for head, labels in zip(others, targets.unbind(1)[1:], strict=True):
            losses.append(self.cross_entropy(head(groups), labels))
        return torch.stack(losses)

    def features_of_groups(self, features: Tensor) -> Tensor:
        """Return what the heads of the groups learn from: the features, which stay as they are."""
        return features.detach()

    def class_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy of the classes [nats]: `principal_loss` of most remedies.

        Args:
            logits: Of the classes, shape (B, classes).
            targets: Labels of all tasks, as `principal_loss` takes them.
        """
        return self.cross_entropy(logits, targets[:, 0])

    @abstractmethod
    def principal_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of the principal task.

        Args:
            logits: Of the classes, shape (B, classes).
            targets: Labels of all tasks, shape (B, T), or `IGNORED`; of mixed images shape
                (B, T, 2).
        """
