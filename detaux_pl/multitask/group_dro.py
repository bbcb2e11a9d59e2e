"""Distributionally robust optimisation over the cells."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.losses.precision import at_least_float32
from detaux_pl.multitask.cells import cell_of
from detaux_pl.multitask.class_remedy import ClassRemedy
from detaux_pl.multitask.weighting.state import State, mean_over_ranks


class GroupDRO(ClassRemedy):
    """One backbone and one head, trained for the cell, class × group, of the largest loss.

    In each step, with the mean loss L_g of each cell that is in the batch of all ranks,

        q_g <- q_g exp(step_size (L_g + C / sqrt(n_g))),  q <- q / sum(q),  loss = sum_g q_g L_g,

    where n_g is the number of the cell's training images and C the `adjustment`. A cell that is not
    in the batch keeps its q_g but for the division, and adds nothing to the loss; one without a
    training image has q_g = 0 throughout. Batches are those of `BalancedSampling`, as in the paper.

    Images without a group weigh what they are of the batch: with a share u of them and their mean
    loss L_0 the loss is `(1 - u) sum_g q_g L_g + u L_0`.

    Args:
        step_size: Step of the weights q, > 0. Paper: 0.01.
        adjustment: C, not negative: what a cell of few images is thought to hide of its loss.
            Paper: chosen from 0 to 5.

    Raises:
        ValueError: If an argument is outside its range, there is no auxiliary task, there is no
            such backbone, or the images are too small for it.

    Example:
        >>> model = GroupDRO((3, 16, 16), task_sizes=(10, 4), backbone="small_convnet")
        >>> [tuple(logits.shape) for logits in model(torch.zeros(2, 3, 16, 16))]  # class, group
        [(2, 10), (2, 4)]

    References:
        Sagawa et al. 2020, "Distributionally robust neural networks for group shifts", arXiv
        1911.08731, algorithm 1 and eq. 5, by whole batches as in its official code. Differs from
        that in: the adjustment moves the weights of the cells of the batch alone.
    """

    balanced: ClassVar[bool] = True
    _adjustments: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        step_size: float = 0.01,
        adjustment: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if not 0 < step_size < math.inf or not 0 <= adjustment < math.inf:
            raise ValueError(
                f"step_size is {step_size} and adjustment {adjustment}: step_size must be "
                "positive, adjustment must not be negative, and both finite."
            )
        super().__init__(image_shape, task_sizes, backbone, pretrained, **kwargs)
        if self.recipe.mixes:
            raise ValueError(
                "recipe.mixup or recipe.cutmix is set, and GroupDRO weighs images by their cell, "
                "which a mixed one has not: give it 0 for both."
            )
        self.step_size = step_size
        self.adjustment = adjustment
        self.log_weights = State(torch.zeros(self.n_cells, dtype=torch.float64).log_softmax(0))
        self.register_buffer("_adjustments", torch.zeros(self.n_cells), persistent=False)

    @property
    def group_weights(self) -> Tensor:
        """Present weight q of each cell, shape (classes * groups,)."""
        return self.log_weights.value.exp()

    def setup(self, stage: str) -> None:
        """Count the training images of the cells; a checkpoint's weights come after."""
        super().setup(stage)
        data = self.labelled_data()
        if stage == "fit" and data is not None:
            cells = self.cells_of(data, "train")
            counts = torch.bincount(cells[cells != IGNORED], minlength=self.n_cells)
            self._adjustments = (self.adjustment / counts.clamp(min=1).sqrt()).to(self.device)
            if counts.any():
                start = torch.where(counts > 0, 0.0, -math.inf).double()
                self.log_weights.value = start.log_softmax(0)

    def principal_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, and move the weights."""
        losses = F.cross_entropy(
            at_least_float32(logits),
            targets[:, 0],
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.recipe.smoothing,
        )
        # Images of no cell have a place of their own, the last.
        place = cell_of(targets, self.sizes) % (self.n_cells + 1)
        sums = losses.new_zeros(self.n_cells + 1).index_add(0, place, losses)
        counts = torch.zeros_like(sums).index_add(0, place, torch.ones_like(losses))
        means = mean_over_ranks(torch.stack([sums.detach(), counts]))
        counts = means[1]
        self._move(means[0, :-1] / counts[:-1].clamp(min=1e-9), counts[:-1] > 0)
        known = counts[:-1].sum() / counts.sum()
        weights = known * self.group_weights.to(sums)
        # DDP takes the mean over ranks, as the counts are: a rank's sums are its part.
        weights = torch.cat([weights, 1 - known.view(1)]) / counts.clamp(min=1e-9)
        return torch.dot(torch.where(counts > 0, weights, 0.0), sums)

    def _move(self, losses: Tensor, there: Tensor) -> None:
        """Move the weights by the mean losses of the cells that are there."""
        steps = self.step_size * (losses + self._adjustments.to(losses))
        before = self.log_weights.value.to(losses)
        self.log_weights.value = (before + torch.where(there, steps, 0.0)).log_softmax(0)
