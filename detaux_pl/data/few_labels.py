"""A few training labels of each class, as if no more had been given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detaux_pl.artifacts.codes import SPLITS, UNLABELLED
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.factor_dataset import FactorDataset

_LEAST = 2
_ADD = f"{_LEAST} are the least, so add images of that class, or take it out of the data"


@dataclass(frozen=True)
class FewLabels:
    """Keep the principal label of as many training images of each class, and forget the others.

    Images whose label is forgotten go to the split `unlabelled`; validation and test stay as they
    are. Under one seed the images of fewer labels are among those of more.

    Args:
        per_class: Labels of each class that the training split has, at least 2.
        seed: Seed of the drawing.

    Raises:
        ValueError: If `per_class` is less than 2.

    Example:
        >>> from detaux_pl.data.datasets.digit_scenes import DigitScenes
        >>> scenes = DigitScenes(n_train=200)
        >>> scenes.setup()
        >>> FewLabels(3).apply(scenes)
        >>> np.bincount(scenes.labels[scenes.rows("train")]), len(scenes.rows("unlabelled"))
        (array([3, 3, 3, 3, 3, 3, 3, 3, 3, 3]), 170)
    """

    per_class: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_class < _LEAST:
            raise ValueError(f"few_labels.per_class is {self.per_class}: give at least {_LEAST}.")

    def apply(self, dataset: FactorDataset) -> None:
        """Forget labels of a data set that knows its splits and factors; twice is as once.

        Raises:
            UserError: If a class of the training split has fewer.
        """
        rows = dataset.rows("train")
        labels = dataset.labels[rows]
        values, counts = np.unique(labels, return_counts=True)
        if counts.size and (n := counts.min()) < self.per_class:
            value = values[counts.argmin()]
            names = dataset.value_names.get(dataset.principal)
            raise UserError(
                f"few_labels asks for {self.per_class} labels of each class, and the training "
                f"split has {n} of {names[value] if names else value}: "
                f"{f'give at most {n}' if n >= _LEAST else _ADD}."
            )
        kept = []
        for value in values:
            rng = np.random.default_rng([self.seed, int(value)])
            kept.append(rng.permutation(rows[labels == value])[: self.per_class])
        if len(forgotten := np.setdiff1d(rows, np.concatenate([rows[:0], *kept]))):
            splits, factors = dataset.splits.copy(), dataset.factors.copy()
            splits[forgotten] = SPLITS.index(UNLABELLED)
            factors[forgotten, dataset.factor_names.index(dataset.principal)] = -1
            dataset.splits, dataset.factors = splits, factors
