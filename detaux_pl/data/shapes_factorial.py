"""The layout of 3D Shapes and its splits, whatever gives the pixels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.data.factor_dataset import FactorDataset

_CAPACITIES = (342_000, 18_000, 120_000)
"""Images that train, val and test have to give: 5 % of what is not test are val."""


class ShapesFactorial(FactorDataset):
    """Every combination of the six factors of 3D Shapes, one image each: 480,000.

    The id of an image is its row in the original file: the mixed radix number of its factors,
    floor hue first, orientation fastest. The `compositional` test split holds the quarter in
    which floor and wall both have one of their last five hues: either is seen in training, the
    two together never. The `random` one holds as many images, drawn uniformly. Of the rest, 5 %
    are drawn for validation. Disentangling and clustering see the train split alone, where the
    paper takes all 480,000 (B.3, row 18).

    Args:
        principal: `scale`, `shape`, `orientation`, `floor_hue`, `wall_hue` or `object_hue`.
            Paper: `scale`.
        split: `compositional` or `random`.
        n_train: Number of training images, drawn uniformly of 342,000; None for all.
        n_val: Number of validation images, of 18,000; None for all.
        n_test: Number of test images, of 120,000; None for all.
        seed: Seed of the splits and of the drawing; a smaller number draws a part of what a
            larger one does.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Skenderi et al., Detaux, section 5 and its official split (B.5); the data: Burgess and
        Kim 2018, "3D Shapes Dataset".
    """

    factor_names = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
    factor_sizes = (10, 10, 10, 8, 4, 15)
    ids: NDArray[np.int64]

    def __init__(
        self,
        principal: str = "scale",
        split: Literal["compositional", "random"] = "compositional",
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(principal)
        if split not in ("compositional", "random"):
            raise ValueError(f"split is {split!r}: give compositional or random.")
        counts = []
        for name, wanted, most in zip(SPLITS, (n_train, n_val, n_test), _CAPACITIES, strict=True):
            if wanted is not None and not 1 <= wanted <= most:
                raise ValueError(f"n_{name} is {wanted}: give 1 to {most}, or null for all.")
            counts.append(most if wanted is None else wanted)
        self.split = split
        self.counts = tuple(counts)
        self.seed = seed

    def setup(self) -> None:
        """Assign the images to their splits."""
        factors = np.indices(self.factor_sizes).reshape(len(self.factor_sizes), -1).T
        held_out = (factors[:, :2] >= 5).all(axis=1)
        rng = np.random.default_rng(self.seed)
        if self.split == "random":
            held_out = rng.permutation(held_out)
        rest = rng.permutation(np.flatnonzero(~held_out))
        n_val = _CAPACITIES[SPLITS.index("val")]
        pools = rest[n_val:], rest[:n_val], rng.permutation(np.flatnonzero(held_out))
        ids = np.concatenate([pool[:n] for pool, n in zip(pools, self.counts, strict=True)])
        order = np.argsort(ids)
        self.ids = ids[order]
        self.splits = np.repeat(np.arange(len(SPLITS), dtype=np.int8), self.counts)[order]
        self.factors = factors[self.ids]

    @abstractmethod
    def images(self, rows: Tensor) -> Tensor:
        """Return the images of some rows, uint8, shape (n, C, H, W), on the CPU."""
