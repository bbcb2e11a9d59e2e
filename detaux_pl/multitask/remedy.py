"""What remedies for groups on which a classifier fails share."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.multitask.base import refuse_one_task
from detaux_pl.multitask.cells import MOST, cell_of
from detaux_pl.multitask.one_backbone import OneBackbone


class Remedy(OneBackbone):
    """A classifier of the principal task that is told the groups, so as not to go by them.

    The auxiliary labels are the groups: those that were discovered, or a control's. The best epoch
    is the one that does best in the worst cell, class × group, of the validation images
    (`val/worst_group`).

    Images without a group, such as those that a clusterer left out as noise, have no cell: they do
    not count in `val/worst_group`, and each remedy says what they do in its training.

    Raises:
        ValueError: If there is no auxiliary task, there are too many cells, there is no such
            backbone, or the images are too small for it.
    """

    monitor: ClassVar[str] = "val/worst_group"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        backbone: str = "resnet18",
        pretrained: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_one_task(type(self).__name__, task_sizes)
        if math.prod(task_sizes) > MOST:
            raise ValueError(
                f"task_sizes are {tuple(task_sizes)}: {type(self).__name__} tells each class in "
                f"each group apart, at most {MOST:,} in all; give fewer auxiliary tasks."
            )
        super().__init__(image_shape, task_sizes, backbone, pretrained, weighting=None, **kwargs)
        self.n_cells = math.prod(self.sizes)

    def setup(self, stage: str) -> None:
        """Refuse, before a training, groups that its best epoch cannot be chosen by.

        Raises:
            UserError: If no validation image has a class and a group.
        """
        super().setup(stage)
        data = self.labelled_data()
        if stage == "fit" and data is not None and data.fold is None:
            self.check_groups(self.cells_of(data, "val"))

    def check_groups(self, cells: Tensor) -> None:
        """Check the cells of the validation images, shape (n,).

        Raises:
            UserError: If the remedy cannot go by them.
        """
        if (cells == IGNORED).all():
            raise UserError(
                f"no validation image has a class and a group, and {type(self).__name__} is judged "
                "by its worst group: give more validation images, or cluster with noise: nearest."
            )

    def cells_of(self, data: LabelledDataModule, split: str) -> Tensor:
        """Return the cell of each image of a split, or of those that a net of a cross-fit sees."""
        rows = data.dataset.rows(split)
        if split == "train" and data.fold is not None:
            rows = data.fold.train
        return cell_of(data.targets[torch.from_numpy(rows)][:, : len(self.sizes)], self.sizes)
