"""The principal task alone: what every other model is measured against."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from detaux_pl.multitask.one_backbone import OneBackbone


class SingleTask(OneBackbone):
    """One backbone and one head, for the principal task; other labels are ignored.

    Raises:
        ValueError: If there is no such backbone, or the images are too small for it.

    Example:
        >>> import torch
        >>> model = SingleTask((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]  # principal alone
        [(2, 10)]

    References:
        Skenderi et al., Detaux, the row STL (docs/methods.md, 'Backbones and heads').
    """

    uses_auxiliary: ClassVar[bool] = False

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, task_sizes[:1], backbone, weighting=None, **kwargs)
        self.head = self.build_head(task_sizes[0])

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of the principal task, shape (B, task size), alone in a tuple."""
        return (self.head(features[0]),)
