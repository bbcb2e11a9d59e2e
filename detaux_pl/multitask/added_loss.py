"""What models share that add a loss of the images to that of the principal task."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from detaux_pl.data.batch import Batch
from detaux_pl.multitask.single_task import SingleTask


class AddedLoss(SingleTask):
    """`SingleTask`, with `weight` times a loss that needs no label added to its cross entropy.

    Logs the added loss as `train/loss/<added>`, before it is weighted.

    Args:
        weight: Of the added loss, not negative.

    Raises:
        ValueError: If the weight is negative or not finite, there is no such backbone, or the
            images are too small for it.
    """

    added: ClassVar[str]
    """What the added loss is called in the log."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        refuse_weight(weight)
        super().__init__(image_shape, task_sizes, backbone, **kwargs)
        self.weight = weight

    @abstractmethod
    def added_loss(self, images: Tensor) -> Tensor:
        """Return the scalar loss that is added.

        Args:
            images: Those of the batch as they are, none mixed, shape (B, C, H, W).
        """

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of both losses."""
        loss = super().training_step(batch, batch_idx)
        added = self.added_loss(batch.images)
        self.log_means({f"train/loss/{self.added}": added.detach()}, len(batch.images))
        return loss + self.weight * added


def refuse_weight(weight: float) -> None:
    """Check the weight of a loss that is added.

    Raises:
        ValueError: If it is negative or not finite.
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight is {weight}: it must be finite and not negative.")
