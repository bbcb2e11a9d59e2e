"""Features from which the groups cannot be told."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from detaux_pl.data.batch import Batch
from detaux_pl.multitask.class_remedy import ClassRemedy


class GroupAdversary(ClassRemedy):
    """One backbone and one head, and an adversary for each auxiliary task that tells the groups.

    The adversary minimises its cross entropy; what it says reaches the backbone with the sign
    reversed, times `strength (2 / (1 + exp(-10 p)) - 1)`, where p in [0, 1] is how far the training
    is. Groups that go with the class cannot be hidden without hiding some of it.

    Images without a group train the class alone.

    Args:
        strength: Weight of the reversed gradient at the end, not negative. Paper: 1.

    Raises:
        ValueError: If the strength is negative, there is no auxiliary task, there is no such
            backbone, or the images are too small for it.

    Example:
        >>> import torch
        >>> model = GroupAdversary((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]  # class, group
        [(2, 10), (2, 4)]

    References:
        Ganin et al. 2016, "Domain-adversarial training of neural networks", arXiv 1505.07818,
        eq. 13 to 15 and sec. 5.2.2.
    """

    principal_loss = ClassRemedy.class_loss

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        strength: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength is {strength}: give 0 or more.")
        super().__init__(image_shape, task_sizes, backbone, pretrained, **kwargs)
        self.strength = strength
        self.progress = 1.0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Note how far the training is.

        Raises:
            ValueError: If it has no end.
        """
        super().on_train_batch_start(batch, batch_idx)
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            raise ValueError(
                "the strength of GroupAdversary rises to the end of the training: give the trainer "
                "max_epochs or max_steps."
            )
        self.progress = min(self.global_step / steps, 1.0)

    def features_of_groups(self, features: Tensor) -> Tensor:
        """Return the features, through which gradients come back reversed."""
        now = self.strength * (2 / (1 + math.exp(-10 * self.progress)) - 1)
        # The values stay what they are, to the last digit.
        return features.detach() - now * (features - features.detach())
