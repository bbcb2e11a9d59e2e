"""Arms of several runs, side by side: accuracy, tests against one of them, and cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from detaux_pl.artifacts.errors import UserError
from detaux_pl.evaluation.significance import (
    LEVEL,
    PairedTest,
    Summary,
    paired_test,
    summarise,
)
from detaux_pl.metrics.holm import holm

Kind = Literal["", "control", "ceiling"]
"""What an arm is for: `control` learns labels dealt out at random, `ceiling` the true labels of
a hidden factor; neither competes for being the best."""

COSTS = ("parameters", "inference_parameters", "flops", "seconds_per_epoch", "peak_memory")


@dataclass(frozen=True)
class Arm:
    """The finished trainings of one arm of a run.

    Args:
        run: Short name of the run, unique in the comparison.
        arm: Name of the arm in its run.
        kind: What the arm is for.
        scores: Test score of each seed, in [0, 1]; at least one.
        costs: Contents of `cost.json` of the seeds that have one.
    """

    run: str
    arm: str
    kind: Kind
    scores: Mapping[int, float]
    costs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Row:
    """One arm in the table.

    Args:
        name: `run/arm`, or the arm's name where there is one run only.
        arm: The arm.
        summary: Mean and 95 % interval of its scores over the seeds.
        test: Paired test of the arm minus the reference; None for the reference, and where the
            two have no seed in common.
        gaps: Difference to the reference by seed, over the seeds that both have.
        p_holm: p-value corrected for the number of tests in the table; None for no test.
        cost: Median over the seeds, by name as in `COSTS`; None for unknown.
    """

    name: str
    arm: Arm
    summary: Summary
    test: PairedTest | None
    gaps: Mapping[int, float]
    p_holm: float | None
    cost: Mapping[str, float | None]

    @property
    def outcomes(self) -> tuple[int, int, int]:
        """Number of seeds in which the arm wins, loses and ties against the reference."""
        signs = [(gap > 0) - (gap < 0) for gap in self.gaps.values()]
        return signs.count(1), signs.count(-1), signs.count(0)

    @property
    def significant(self) -> bool:
        """Whether a difference is shown, all tests of the table considered."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True)
class Comparison:
    """Arms of one or several runs.

    Args:
        rows: The arms, the highest mean first.
        reference: The row that the others are tested against.
        best: The row of the highest mean among the arms that compete.
        metric: `accuracy` or `f1`.
        task: Task whose test score is compared.
        devices: What the costs were measured on.
    """

    rows: Sequence[Row]
    reference: Row
    best: Row | None
    metric: str
    task: str
    devices: Sequence[str]

    @property
    def n_tests(self) -> int:
        """Number of tests that Holm's correction is for."""
        return sum(row.p_holm is not None for row in self.rows)

    @property
    def score(self) -> str:
        """Name of what is compared, for headings."""
        name = "macro-F1" if self.metric == "f1" else "accuracy"
        return name if self.task == "principal" else f"{self.task} {name}"


def compare(
    arms: Sequence[Arm], reference: Arm, metric: str = "accuracy", task: str = "principal"
) -> Comparison:
    """Test every arm against one of them, with the seeds as pairs.

    Args:
        arms: The arms, the reference among them.
        reference: What the others are tested against.
        metric: `accuracy` or `f1`.
        task: Task of the scores.

    Raises:
        UserError: If there is no arm, an arm has no score, or the reference is not among them.
    """
    if not any(arm is reference for arm in arms) or not all(arm.scores for arm in arms):
        raise UserError("give arms with a finished training each, the reference among them.")
    short = len({arm.run for arm in arms}) == 1
    tests: dict[int, PairedTest] = {}
    for k, arm in enumerate(arms):
        common = [seed for seed in arm.scores if seed in reference.scores]
        if arm is not reference and common:
            ours, theirs = ([each.scores[seed] for seed in common] for each in (arm, reference))
            tests[k] = paired_test(ours, theirs)
    values = {k: test.p_value for k, test in tests.items() if test.p_value is not None}
    corrected = dict(zip(values, holm(list(values.values())), strict=True))
    rows = [
        Row(
            name=arm.arm if short else f"{arm.run}/{arm.arm}",
            arm=arm,
            summary=summarise(list(arm.scores.values())),
            test=tests.get(k),
            gaps={
                seed: score - reference.scores[seed]
                for seed, score in sorted(arm.scores.items())
                if k in tests and seed in reference.scores
            },
            p_holm=corrected.get(k),
            cost={name: _median(arm.costs, name) for name in COSTS},
        )
        for k, arm in enumerate(arms)
    ]
    rows.sort(key=lambda row: -row.summary.mean)
    return Comparison(
        rows=rows,
        reference=next(row for row in rows if row.arm is reference),
        best=next((row for row in rows if not row.arm.kind), None),
        metric=metric,
        task=task,
        devices=sorted({str(cost["device"]) for arm in arms for cost in arm.costs}),
    )


def _median(costs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [float(cost[name]) for cost in costs if cost.get(name) is not None]
    return statistics.median(known) if known else None
