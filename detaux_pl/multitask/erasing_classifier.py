"""Logistic regression on frozen features from which groups are erased."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.labels import load_tasks
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.models.erased_probe import fit_erased_probe
from detaux_pl.models.linear_probe import LinearProbe
from detaux_pl.multitask.frozen_classifier import FrozenClassifier


class ErasingClassifier(FrozenClassifier):
    """Logistic regression on frozen features, after the groups of the auxiliary task are erased.

    What tells the groups is erased from the features in the whitened space, see `fit_erasure`, and
    the regression is fitted to what is left: it cannot go by what the groups differ in. Of several
    auxiliary tasks the mean of the erasures counts. Erasure and regression are one linear layer in
    the end. A further layer for each auxiliary task, fitted to the features as they are, tells the
    groups of new images.

    Discovered groups of which the verdict says that they are better left are not erased: what
    remains is the plain regression.

    Args:
        shrinkage: What the covariance is shrunken by before it is whitened, as a share of its mean
            eigenvalue; > 0 where images are few for `pca`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import torch
        >>> with torch.device("meta"):  # which has shapes alone
        ...     model = ErasingClassifier((3, 64, 64), (10, 4), pretrained=False)
        ...     logits = model(torch.zeros(2, 3, 64, 64))
        >>> [tuple(values.shape) for values in logits]  # the class, and the group
        [(2, 10), (2, 4)]

    References:
        Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form". Romera-Paredes
        et al. 2012, "Exploiting Unrelated Tasks in Multi-Task Learning": that a task gains where
        unrelated ones are made orthogonal to it. docs/methods.md, 'Frozen features'.
    """

    uses_auxiliary: ClassVar[bool] = True

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        task_sizes: tuple[int, ...],
        shrinkage: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage is {shrinkage}: give a share in [0, 1].")
        super().__init__(image_shape, task_sizes, **kwargs)
        self.shrinkage = shrinkage

    def fit_probes(
        self, features: NDArray[np.float32], targets: NDArray[np.int64], data: LabelledDataModule
    ) -> list[LinearProbe]:
        """Fit the principal task to what is left, and each auxiliary one to all there is."""
        groups = targets[:, 1:]
        if data.auxiliary == "discovered" and data.labels is not None:
            erased = [task.meta.get("use") != "leave" for task in load_tasks(data.labels)]
            groups = groups[:, erased]
        principal = fit_erased_probe(
            features, targets[:, 0], self.sizes[0], groups, self.pca, self.shrinkage
        )
        told = [
            fit_erased_probe(features, labels, size, labels[:, None][:, :0], self.pca)
            for labels, size in zip(targets[:, 1:].T, self.sizes[1:], strict=True)
        ]
        return [principal, *told]
