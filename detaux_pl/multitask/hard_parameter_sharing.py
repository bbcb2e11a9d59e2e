"""One backbone for all tasks, one head for each."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detaux_pl.multitask.base import refuse_one_task
from detaux_pl.multitask.one_backbone import OneBackbone
from detaux_pl.multitask.weighting.base import Weighting
from detaux_pl.multitask.weighting.uncertainty import UncertaintyWeighting


class HardParameterSharing(OneBackbone):
    """One backbone whose flattened map goes to a head per task.

    Args:
        weighting: How the losses of the tasks are combined; None for `UncertaintyWeighting`.
            Paper: "as suggested in" Kendall et al. (docs/methods.md, 'Weightings').

    Raises:
        ValueError: If there is no auxiliary task, there is no such backbone, or the images are
            too small for it.

    Example:
        >>> import torch
        >>> model = HardParameterSharing((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]
        [(2, 10), (2, 4)]

    References:
        Caruana 1997, "Multitask Learning"; setting of Skenderi et al., Detaux
        (docs/methods.md, 'Backbones and heads').
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        weighting: Weighting | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_one_task("HardParameterSharing", task_sizes)
        weighting = UncertaintyWeighting() if weighting is None else weighting
        super().__init__(image_shape, task_sizes, backbone, pretrained, weighting, **kwargs)
        self.heads = nn.ModuleList(self.build_head(size) for size in task_sizes)

    def classify(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the logits of each task, shape (B, task size)."""
        return tuple(head(features[0]) for head in self.heads)
