"""What remedies share that come after the training, and learn from the validation images."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.models.resize import seen_at_once
from detaux_pl.multitask.base import PIXELS_EVALUATED
from detaux_pl.multitask.class_remedy import ClassRemedy


class Refitted(ClassRemedy):
    """A network that is trained like `SingleTask`, and then fitted anew to validation images.

    What it says of them afterwards is no longer what it would say of others.

    Raises:
        ValueError: If there is no auxiliary task, there is no such backbone, or the images are
            too small for it.
    """

    refitted: ClassVar[bool] = True
    principal_loss = ClassRemedy.class_loss

    def refit(self, data: LabelledDataModule) -> None:
        """Fit to all validation images, on every rank, in 32 bits."""
        rows = data.dataset.rows("val")
        parts = np.array_split(rows, math.ceil(len(rows) / data.eval_batch_size))
        with torch.no_grad():
            found = [
                self.eval().represent(piece.to(self.device))[0]
                for part in parts
                for piece in seen_at_once(self, data.images(part), PIXELS_EVALUATED)
            ]
            features = torch.cat(found)
            targets = data.targets[torch.from_numpy(rows)].to(self.device)
            self.fit_to(features, targets[:, 0], self.cells_of(data, "val").to(self.device))

    @abstractmethod
    def fit_to(self, features: Tensor, labels: Tensor, cells: Tensor) -> None:
        """Fit to what the backbone makes of the validation images.

        Args:
            features: What `represent` returned, shape (n, features).
            labels: Their classes, or `IGNORED`, shape (n,).
            cells: Their cells, or `IGNORED`, shape (n,).
        """
