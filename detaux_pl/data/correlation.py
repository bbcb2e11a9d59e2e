"""A factor that goes with a label: shortcuts by design, for studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import LABELLED, SPLITS
from detaux_pl.artifacts.errors import UserError

_TEST = SPLITS.index("test")


@dataclass(frozen=True)
class Correlate:
    """Draw images so that a factor goes with a label in train and validation, and not in test.

    In `share` of the training and validation images the factor has the value that belongs to the
    label, which is the number of the label modulo the number of values; in the others it is
    uniform, as it is of all test images. Labels are uniform everywhere. As many images are drawn
    as that allows. With at most as many values as labels, `share` is Cramér's V of the two.

    Args:
        label: Name of one factor.
        factor: Name of the other, which goes with it.
        share: Share of the images, in [0, 1].

    Raises:
        ValueError: If the share is outside its range, or the factors are one.

    Example:
        >>> labels, values = np.indices((2, 2)).repeat(100, axis=2).reshape(2, -1)
        >>> tied = Correlate("animal", "background", share=0.8)
        >>> rows = tied.draw(np.stack([labels, values], axis=1), ("animal", "background"), (2, 2),
        ...                  np.zeros(400, np.int8), np.random.default_rng(0))
        >>> np.bincount(2 * labels[rows] + values[rows])
        array([100,  11,  11, 100])
    """

    label: str
    factor: str
    share: float

    def __post_init__(self) -> None:
        check_correlation("share", self.share)
        if self.label == self.factor:
            raise ValueError(f"label and factor are both {self.label!r}: give two factors.")

    def check(self, names: Sequence[str]) -> None:
        """Refuse factors that do not exist.

        Args:
            names: Those that there are.

        Raises:
            ValueError: If one of the two is none of them.
        """
        for name in (self.label, self.factor):
            if name not in names:
                raise ValueError(
                    f"correlate names {name!r}, which is no factor: choose two of "
                    f"{', '.join(names)}."
                )

    def draw(
        self,
        factors: NDArray[np.int64],
        names: Sequence[str],
        sizes: Sequence[int],
        splits: NDArray[np.int8],
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Draw the rows to keep, ascending.

        Args:
            factors: Factors of all images, shape (N, F).
            names: Name of each factor.
            sizes: Number of values of each.
            splits: Index into `SPLITS` of each image, shape (N,); those of other splits than
                train, val and test are all kept.
            rng: Source of the randomness.

        Raises:
            UserError: If a split lacks an image that the share asks for.
            ValueError: If there are no such factors.
        """
        self.check(names)
        own = [names.index(name) for name in (self.label, self.factor)]
        n_labels, n_values = (sizes[k] for k in own)
        labels, values = factors[:, own].T
        kept = [np.flatnonzero(splits >= len(LABELLED))]
        for split, name in enumerate(LABELLED):
            rows = np.flatnonzero(splits == split)
            if not rows.size:
                continue
            share = 0.0 if split == _TEST else self.share
            wanted = _joint(n_labels, n_values, share)
            cells = labels[rows] * n_values + values[rows]
            there = np.bincount(cells, minlength=wanted.size)
            asked = wanted > 0
            if not there[asked].all():
                label, value = divmod(int(np.flatnonzero(asked & (there == 0))[0]), n_values)
                raise UserError(
                    f"correlate cannot draw a share of {share:g} in {name}: no image there has "
                    f"{self.label} {label} and {self.factor} {value} (values counted from 0); give "
                    "the data more images or another split, or leave out rare values."
                )
            n = int((there[asked] / wanted[asked]).min())
            counts = np.rint(n * wanted).astype(np.int64)
            order = rng.permutation(rows.size)
            order = order[np.argsort(cells[order], kind="stable")]  # by cell, in random order
            rank = np.arange(rows.size) - np.repeat(np.cumsum(there) - there, there)
            kept.append(rows[order[rank < np.repeat(counts, there)]])
        return np.sort(np.concatenate(kept))


def tie(
    labels: NDArray[np.int64],
    values: NDArray[np.int64],
    n_values: int,
    share: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Give a share of images the value that belongs to their label, as `Correlate` does.

    Args:
        labels: Label of each image, shape (n,).
        values: Value of the factor of each, drawn independently, shape (n,).
        n_values: Number of values.
        share: Share of the images, in [0, 1].
        rng: Source of the randomness.
    """
    return np.where(rng.random(len(labels)) < share, labels % n_values, values)


def check_correlation(name: str, share: float) -> None:
    """Check the share of images in which a factor goes with a label.

    Raises:
        ValueError: If it is outside its range.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{name} is {share}: give the share of images, from 0 to 1.")


def _joint(n_labels: int, n_values: int, share: float) -> NDArray[np.float64]:
    """Probability of each pair of a label and a value, the value fastest."""
    usual = np.arange(n_labels)[:, None] % n_values == np.arange(n_values)
    joint: NDArray[np.float64] = (share * usual + (1 - share) / n_values) / n_labels
    return joint.ravel()
