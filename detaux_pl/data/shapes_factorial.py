"""The layout of 3D Shapes and its splits, whatever gives the pixels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detaux_pl.data.correlation import Correlate
from detaux_pl.data.factorial import Factorial


class ShapesFactorial(Factorial):
    """Every combination of the six factors of 3D Shapes, one image each: 480,000.

    The id of an image is its row in the original file: the mixed radix number of its factors,
    floor hue first, orientation fastest. The `compositional` test split holds the quarter in
    which floor and wall both have one of their last five hues: either is seen in training, the
    two together never. The `random` one holds as many images, drawn uniformly. Of the rest, 5 %
    are drawn for validation. Disentangling and clustering see the train split alone, where the
    paper takes all 480,000 (docs/methods.md, 'Data and pairs').

    Args:
        principal: `scale`, `shape`, `orientation`, `floor_hue`, `wall_hue` or `object_hue`.
            Paper: `scale`.
        split: `compositional` holds out the images whose floor and wall both have one of their
            last five hues, `random` as many at random.
        n_train: Number of training images, drawn uniformly of 342,000; None for all.
        n_val: Number of validation images, of 18,000; None for all.
        n_test: Number of test images, of 120,000; None for all.
        correlate: A factor that goes with another one in train and val, as a shortcut does;
            None for none.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Skenderi et al., Detaux, section 5 and its official split; the data: Burgess and
        Kim 2018, "3D Shapes Dataset".
    """

    factor_names = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
    factor_sizes = (10, 10, 10, 8, 4, 15)

    def __init__(
        self,
        principal: str = "scale",
        split: Literal["compositional", "random"] = "compositional",
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        seed: int = 0,
        correlate: Correlate | None = None,
    ) -> None:
        super().__init__(principal, n_train, n_val, n_test, seed, correlate)
        if split not in ("compositional", "random"):
            raise ValueError(f"split is {split!r}: give compositional or random.")
        self.split = split

    def held_out(self, factors: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Hold out what `split` says, 120,000 images in either case."""
        composed = (factors[:, 0] >= 5) & (factors[:, 1] >= 5)
        return rng.permutation(composed) if self.split == "random" else composed

    @abstractmethod
    def images(self, rows: Tensor) -> Tensor:
        """Return the images of some rows, uint8, shape (n, C, H, W), on the CPU."""
