from __future__ import annotations

import itertools

import numpy as np
import pytest

from detaux_pl.evaluation.requirements import requirements
from tests.evaluation import published
from tests.evaluation.published import entries

CHANCE = {"DC": 0.1, "BC": 0.1, "DL": 1 / 8}
SUPERVISED = entries(published.SUPERVISED_DC_BC)[0]


@pytest.mark.parametrize(
    ("table", "second"),
    [
        ("SUPERVISED_DC_BC", "BC"),
        ("SUPERVISED_DC_DL", "DL"),
        ("REGULARISED_DC_BC", "BC"),
        ("REGULARISED_DC_DL", "DL"),
        ("ORTHOGONALITY_RUNS", "BC"),
        ("HESSIAN_RUNS", "BC"),
    ],
)
def test_gaps_are_the_published_ones(table, second):
    rows = getattr(published, table)
    found = [requirements(entry, CHANCE)["gaps"] for entry in entries(rows, ("DC", second))]
    gaps = [100 * gap for both in found for gap in both.values()]
    np.testing.assert_allclose(gaps, rows[3], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("table", "column", "expected", "diagonal"),
    [
        # R1, R2, R3 worked out by hand from the tables, at chance 10/10 against 97.3/64.5
        ("SUPERVISED_DC_BC", 0, (0.9, 0.0, 0.0), True),
        ("INFO_MIN_R", 0, (69.9, 0.05, 0.85), False),
        ("INFO_MIN_R", 1, (68.55, 0.2, 2.15), False),
        ("INFO_MIN_Z", 0, (57.4, -0.1, 13.4), True),
        ("INFO_MIN_Z", 1, (31.6, 0.0, 39.25), False),
        ("REGULARISED_DC_BC", 0, (50.8, 14.4, 1.2), True),
        ("REGULARISED_DC_BC", 1, (33.1, 17.5, 16.45), True),
        ("REGULARISED_DC_BC", 2, (52.1, 12.55, 1.3), True),
        ("REGULARISED_DC_BC", 3, (59.55, 5.4, 1.5), True),
        ("REGULARISED_DC_BC", 4, (37.3, 27.15, 6.1), False),
        ("REGULARISED_DC_BC", 5, (39.95, 12.15, 5.95), True),
    ],
)
def test_requirements_of_the_published_tables(table, column, expected, diagonal):
    entry = entries(getattr(published, table))[column]
    found = requirements(entry, CHANCE, SUPERVISED)
    assert [100 * found[name] for name in ("R1", "R2", "R3")] == pytest.approx(expected, abs=1e-9)
    assert found["diagonal"] is diagonal


@pytest.mark.parametrize(
    ("table", "second", "expected"),
    [
        ("ORTHOGONALITY_RUNS", "BC", [True, True, False, False, False, False]),
        ("HESSIAN_RUNS", "BC", [True, True, True, True, False, True]),
        ("REGULARISED_DC_DL", "DL", [True, True, True, False, True, True]),
        ("DEGENERATE_DC_DL", "DL", [False, False]),
    ],
)
def test_diagonal_trend_of_the_published_tables(table, second, expected):
    runs = entries(getattr(published, table), ("DC", second))
    assert [requirements(run, CHANCE)["diagonal"] for run in runs] == expected


def test_random_representations_collapse_to_chance():
    entry = entries(published.DEGENERATE_DC_DL, ("DC", "DL"))[0]
    found = requirements(entry, {"DC": 0.117, "DL": 0.126})
    assert found["R1"] == pytest.approx(0, abs=1e-12)
    assert found["R2"] == 0
    assert set(found["gaps"].values()) == {0}


def test_assignment_is_the_best_of_all():
    rng = np.random.default_rng(0)
    tasks = ["a", "b", "c"]
    for _ in range(20):
        table = rng.random((4, 3))
        entry = {
            "full": dict(zip(tasks, rng.random(3), strict=True)),
            "slices": [dict(zip(tasks, row, strict=True)) for row in table],
        }
        chance = dict(zip(tasks, rng.random(3), strict=True))
        found = requirements(entry, chance)
        best = max(
            itertools.permutations(range(4), 3),
            key=lambda given: sum(table[k, t] for t, k in enumerate(given)),
        )
        assert found["assignment"] == dict(zip(tasks, best, strict=True))
        r1 = r2 = 0.0
        diagonal = True
        for t, (task, k) in enumerate(zip(tasks, best, strict=True)):
            others = [table[j, t] for j in range(4) if j != k]
            r1 += (sum(others) / 3 - chance[task]) / 3
            r2 += (entry["full"][task] - table[k, t]) / 3
            diagonal = diagonal and table[k, t] > max(others)
            assert found["gaps"][task] == sorted(table[:, t])[-1] - sorted(table[:, t])[-2]
        assert (found["R1"], found["R2"]) == pytest.approx((r1, r2), rel=1e-9)
        assert found["diagonal"] == diagonal
        assert found["R3"] is None


def test_what_is_not_defined_is_none():
    crowded = {"full": {"a": 0.9, "b": 0.8, "c": 0.7}, "slices": [{"a": 0.5, "b": 0.4, "c": 0.3}]}
    found = requirements(crowded, dict.fromkeys("abc", 0.1), crowded)
    assert found == {
        "gaps": {"a": None, "b": None, "c": None},
        "diagonal": None,
        "assignment": None,
        "R1": None,
        "R2": None,
        "R3": 0.0,
    }
    alone = {"full": {"a": 0.9}, "slices": [{"a": 0.3}, {"a": 0.7}]}
    found = requirements(alone, {"a": 0.1})
    assert (found["diagonal"], found["assignment"]) == (None, {"a": 1})
    assert (found["R1"], found["R2"]) == pytest.approx((0.2, 0.2))
