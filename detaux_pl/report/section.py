"""What a section of the page is, and what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.evaluation.together import Together, read_together

if TYPE_CHECKING:
    from torch import Tensor

    from detaux_pl.disentangle.base import Disentangler

Report = Mapping[str, Any]
"""The content of `report.json`."""
Charts = Mapping[str, str]
"""Inline SVG of each chart by name."""
Images = Callable[[NDArray[np.int64]], "Tensor"]
"""Gives the float images of some rows, shape (n, C, H, W) in [0, 1]."""

_ENCODED = 1000
"""Test images that say how much codes vary, at most."""


@dataclass(frozen=True)
class View:
    """What a report is made from.

    Args:
        run_dir: Folder of the run.
        arms: Names of the arms in the order to show them, the main one first.
        baseline: The arm that the others are tested against; None for none.
        seeds: Seeds that every arm was asked to run.
        codes: Codes of the main disentangler.
        tasks: Labels of the discovered tasks, the best one first.
        images: Gives the float images of some rows.
        disentangler: The trained disentangler; None for none.
        discoveries: Names of the further discoveries.
    """

    run_dir: Path
    arms: Sequence[str]
    baseline: str | None
    seeds: Sequence[int]
    codes: Codes
    tasks: Sequence[AuxiliaryLabels]
    images: Images
    disentangler: Disentangler | None
    discoveries: Sequence[str]

    @property
    def test_sample(self) -> NDArray[np.int64]:
        """Rows of the test split, as many as say how much codes vary."""
        rows = self.codes.rows("test")
        return np.sort(np.random.default_rng(0).permutation(rows)[:_ENCODED])

    @cached_property
    def together(self) -> dict[str, Together]:
        """What all seeds of an arm say together of test images, where it kept predictions."""
        return self._read("test")

    @cached_property
    def held_out(self) -> dict[str, Together]:
        """The same of the validation images."""
        return self._read("val")

    def _read(self, split: str) -> dict[str, Together]:
        found = {arm: read_together(self.run_dir, arm, self.seeds, split) for arm in self.arms}
        return {arm: each for arm, each in found.items() if each is not None}


class Picture(NamedTuple):
    """A figure, what it is called, and what it shows in words."""

    name: str
    alt: str
    figure: Figure


class Part(NamedTuple):
    """A heading of the page and what stands below it, as HTML; nothing is shown of an empty one."""

    name: str
    title: str
    body: str


def _nothing_described(view: View) -> dict[str, Any]:
    return {}


def _nothing_drawn(view: View, report: Report) -> Iterator[Picture]:
    yield from ()


@dataclass(frozen=True)
class Section:
    """One section of the page; each file of `report/sections` holds one as `SECTION`.

    Args:
        place: Where on the page it stands: sections are in the order of this number.
        render: Puts it into HTML.
        describe: Gives its entries of `report.json`.
        draw: Draws its figures.
        without_task: Whether it is shown of a run that found no task, too.
    """

    place: int
    render: Callable[[Report, Charts], Sequence[Part]]
    describe: Callable[[View], dict[str, Any]] = _nothing_described
    draw: Callable[[View, Report], Iterator[Picture]] = _nothing_drawn
    without_task: bool = False
