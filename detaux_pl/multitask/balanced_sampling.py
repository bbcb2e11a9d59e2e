"""Batches in which no cell is rare."""

from __future__ import annotations

from typing import ClassVar

from detaux_pl.multitask.class_remedy import ClassRemedy


class BalancedSampling(ClassRemedy):
    """One backbone and one head, trained on as many images of each cell, class × group.

    An epoch has as many images as ever. Of n images with a group and m cells, n / m are drawn from
    each cell: all of its images equally often, in an order that is drawn anew. A cell without a
    training image is left out. Images without a group are drawn once, as without the remedy.

    Raises:
        ValueError: If there is no auxiliary task, there is no such backbone, or the images are
            too small for it.

    Example:
        >>> import torch
        >>> model = BalancedSampling((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]  # class, group
        [(2, 10), (2, 4)]

    References:
        Idrissi et al. 2022, "Simple data balancing achieves competitive worst-group-accuracy",
        arXiv 2110.14503, RWG (docs/methods.md, 'Remedies').
    """

    balanced: ClassVar[bool] = True
    principal_loss = ClassRemedy.class_loss
