"""What evaluation, tables and reports must know of a metric."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from detaux_pl.metrics.inputs import Per


@dataclass(frozen=True)
class Score:
    """What a score is called, and how to read it.

    Args:
        name: Its name, with its unit.
        meaning: What it measures.
        direction: Which end of the range is the better one; None where that is not known.
        range: Least and largest value; one from 0 to 1 is shown in per cent.
        perfect: What codes of one factor each score at least, or at most where less is better;
            None for the better end of the range.
    """

    name: str
    meaning: str
    direction: Literal["higher", "lower"] | None = "higher"
    range: tuple[float, float] = (0.0, 1.0)
    perfect: float | None = None

    @property
    def share(self) -> bool:
        """Whether it goes from 0 to 1."""
        return self.range == (0.0, 1.0)

    @property
    def better(self) -> str:
        """Which end of which range is the better one, in words: `higher, 0 to 1`."""
        if self.direction is None:
            return ""
        low, high = self.range
        if math.isinf(high):
            return self.direction if math.isinf(low) else f"{self.direction}, from {low:g}"
        return f"{self.direction}, {'up' if math.isinf(low) else f'{low:g}'} to {high:g}"


@dataclass(frozen=True)
class SharedFit:
    """What a metric fits once for its scores of dimensions and of subspaces.

    Args:
        function: Takes codes and factors, `seed`, `n_jobs` and `progress`; what it returns has a
            `matrix`, how much each code tells of each factor, shape (K D, F), not negative.
        scores: Takes what was found, `per` and the dimensions D of a subspace; gives the scores.
        matrix: What `metrics.json` calls the matrix.
        title: What the report calls it, which draws its shares of the sums of columns.
    """

    function: Callable[..., Any]
    scores: Callable[[Any, Per, int], dict[str, float]]
    matrix: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of disentanglement: all that the project knows of it.

    The `METRIC` of a module of this room is found by itself, see `records`.

    Args:
        key: What configs call it.
        function: Takes codes, shape (N, K, D), factors, shape (N, F), and `seed`; gives its scores.
        scores: How to read each of them, by its name in `metrics.json`, in the order of tables.
        name: Its name in words; may be left out where it has one score, for the name of that.
        place: Its place among the metrics; those of equal place follow by their keys.
        least_codes: Number of codes that it needs.
        least_factors: Number of factors, of two values or more, that it needs.
        per_subspace: Whether the function takes `per`, and so has a subspace for a code; of
            these, some scores may be left out.
        jobs: What the function takes `n_jobs` of, and with it `progress`: called with the share of
            the work just done. None where it takes neither.
        fit: What the scores of dimensions and of subspaces share.

    Raises:
        ValueError: If something is missing, or is not what the function takes.
    """

    key: str
    function: Callable[..., dict[str, float]]
    scores: Mapping[str, Score]
    name: str = ""
    place: int = 100
    least_codes: int = 1
    least_factors: int = 1
    per_subspace: bool = False
    jobs: Literal["threads", "processes"] | None = None
    fit: SharedFit | None = None

    def __post_init__(self) -> None:
        if not self.key or not self.scores:
            raise ValueError(f"the metric {self.key!r} has no key or no scores: give it both.")
        if not self.name:
            if len(self.scores) > 1:
                raise ValueError(
                    f"the metric {self.key!r} has {len(self.scores)} scores and no name: give it "
                    "the name that stands for all of them."
                )
            object.__setattr__(self, "name", next(iter(self.scores.values())).name)
        for key, score in self.scores.items():
            for field in ("name", "meaning", "direction"):
                if not getattr(score, field):
                    raise ValueError(
                        f"the score {key!r} of the metric {self.key!r} has no {field}: give it one."
                    )
        taken = inspect.signature(self.function).parameters
        jobs = self.jobs is not None
        wanted = {"seed": True, "per": self.per_subspace, "n_jobs": jobs, "progress": jobs}
        for argument, want in wanted.items():
            if want != (argument in taken):
                raise ValueError(
                    f"the function of the metric {self.key!r} takes {'no ' if want else ''}"
                    f"`{argument}`: each takes `seed`, that of a metric `per_subspace` `per`, and "
                    "that of one with `jobs` `n_jobs` and `progress`; no other does."
                )

    def lack(self, n_codes: int, n_factors: int) -> str | None:
        """Say why it cannot be computed of so many codes and factors; None where it can."""
        if n_codes < self.least_codes:
            return f"needs at least {self.least_codes} codes, and there is {n_codes}"
        if n_factors < self.least_factors:
            noun = "factor" if self.least_factors == 1 else "factors"
            return (
                f"needs at least {self.least_factors} {noun} with two values in the test split, "
                f"and there is {n_factors or 'none'}"
            )
        return None
