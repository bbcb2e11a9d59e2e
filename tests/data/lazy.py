"""A data set for worker processes."""

from __future__ import annotations

from torch import Tensor

from detaux_pl.data.datasets.digit_scenes import DigitScenes


class LazyScenes(DigitScenes):
    """`DigitScenes` that are read when they are asked for, as images are that are not mapped."""

    def setup(self) -> None:
        super().setup()
        if self.pixels is not None:
            self.stored, self.pixels = self.pixels, None

    def images(self, rows: Tensor) -> Tensor:
        return self.stored.index_select(0, rows)
