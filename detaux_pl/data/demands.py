"""What a training demands of the splits of its data, told before it begins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.pairs import NoPartnerError

P = ParamSpec("P")
T = TypeVar("T")


class Drawing(Protocol):
    """What of a data module says which images, or pairs, an epoch sees."""

    unit: str
    dataset: FactorDataset
    batch_size: int
    seed: int

    def build_targets(self) -> NDArray[np.int64]:
        """Return the labels of all tasks."""

    def epoch_length(self, rows: NDArray[np.int64]) -> int:
        """Return how many images, or pairs, `draw` gives."""

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw what an epoch sees of some rows."""


def refusals(data: Drawing, world: int = 1) -> list[str]:
    """Say what of the described data stands in the way of a training.

    Args:
        data: The data module, whose data set knows its splits and factors.
        world: Number of ranks.

    Returns:
        A line each: the split, what it lacks and what to do.
    """
    found: list[str] = []
    rows = data.dataset.rows("train")
    demands: tuple[Callable[[], object], ...] = (
        data.build_targets,
        partial(refuse_small, data, rows, world),
        partial(draw_first, data, "train"),
        partial(draw_first, data, "val"),
    )
    for demand in demands:
        try:
            demand()
        except UserError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def refuse_small(data: Drawing, rows: NDArray[np.int64], world: int) -> int:
    """Return the number of images, or pairs, of an epoch of some training rows.

    Raises:
        UserError: If they make no batch.
    """
    n = in_split(data.dataset, "train", data.epoch_length, rows)
    if n < data.batch_size * world:
        raise UserError(
            f"the train split has {n} {data.unit}, fewer than one batch of "
            f"{data.batch_size} on {world} rank(s): lower batch_size."
        )
    return n


def draw_first(data: Drawing, split: str) -> NDArray[np.int64]:
    """Draw what an evaluation sees of a split.

    Raises:
        UserError: If it is empty, or has no such pairs.
    """
    rows = data.dataset.rows(split)
    if not rows.size:
        name = type(data.dataset).__name__
        raise UserError(f"the {split} split of {name} is empty: {_more(data.dataset, split)}")
    rng = np.random.default_rng([data.seed, 0])
    return in_split(data.dataset, split, data.draw, rows, rng)


def in_split(
    dataset: FactorDataset, split: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Do what may be refused, and then say of which split it was.

    Raises:
        UserError: If it is.
    """
    try:
        return work(*args, **kwargs)
    except UserError as error:
        line = str(error)
        if isinstance(error, NoPartnerError):
            line = f"{line.rstrip('.')}; or {_more(dataset, split)}"
        raise UserError(f"the {split} split of {type(dataset).__name__}: {line}") from None


def _more(dataset: FactorDataset, split: str) -> str:
    share = f"{split}_share"
    drawn = f", raise {share} if it is drawn; 2 of each class stay in train" * hasattr(
        dataset, share
    )
    return f"give {split} more images{drawn}."
