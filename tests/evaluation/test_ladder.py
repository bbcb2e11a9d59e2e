"""Which rung to take, and what a discovered task is worth in labels."""

from __future__ import annotations

import csv
import json
import math

import pytest

from detaux_pl.evaluation.compare import Arm, compare
from detaux_pl.evaluation.ladder import (
    Budget,
    Rated,
    labels_worth,
    recommend,
    standard_error,
    worths,
)
from detaux_pl.report.ladder_page import render_ladder
from detaux_pl.report.ladder_table import sentences, to_csv, to_json, to_markdown

SECONDS = {"majority": 0.5, "probe": 3.0, "erasure": 10.0, "network": 100.0}
SCORES = {
    5: {
        "majority": [0.2, 0.2, 0.2], "probe": [0.50, 0.54, 0.52], "erasure": [0.62, 0.60, 0.61],
        "network": [0.30, 0.38, 0.31],
    },
    20: {
        "majority": [0.2, 0.2, 0.2], "probe": [0.70, 0.71, 0.72], "erasure": [0.71, 0.70, 0.72],
        "network": [0.69, 0.75, 0.72],
    },
}  # fmt: skip


def budget(labels: int, n_test: int = 400) -> Budget:
    arms = [Arm("", name, "", dict(enumerate(own))) for name, own in SCORES[labels].items()]
    comparison = compare(arms, arms[1])
    rated = [
        Rated(
            row.name,
            row.summary.mean,
            standard_error([*row.arm.scores.values()], n_test),
            SECONDS[row.name],
        )
        for row in comparison.rows
    ]
    return Budget(labels, labels, n_test, comparison, rated, recommend(rated))


def test_the_error_has_both_the_seeds_and_the_test_images():
    mean, n = sum(SCORES[20]["network"]) / 3, 3
    variance = sum((score - mean) ** 2 for score in SCORES[20]["network"]) / (n - 1)
    naive = math.sqrt(variance / n + mean * (1 - mean) / 400)
    assert standard_error(SCORES[20]["network"], 400) == pytest.approx(naive)
    assert standard_error([0.5], 100) == pytest.approx(0.05)  # of one seed the images alone


def test_the_cheapest_rung_within_one_error_of_the_best_is_taken():
    few, many = budget(5), budget(20)
    assert (few.best.name, few.chosen.name) == ("erasure", "erasure")
    assert (many.best.name, many.chosen.name) == ("network", "probe")
    # With test images enough the difference counts.
    assert budget(20, 10**9).chosen.name == "probe"  # the seeds of the best differ
    exact = [Rated("a", 0.70, 0.0, 1.0), Rated("b", 0.71, 0.001, 9.0)]
    assert recommend(exact).name == "b"
    tied = [Rated("a", 0.7, 0.1, 2.0), Rated("b", 0.7, 0.1, 2.0), Rated("c", 0.65, 0.1, 1.0)]
    assert recommend(tied).name == "c"


def test_p_values_are_corrected_over_the_rungs():
    for labels in (5, 20):
        rows = [row for row in budget(labels).comparison.rows if row.test is not None]
        raw = sorted((row.test.p_value, row.p_holm) for row in rows)  # type: ignore[union-attr]
        largest = 0.0
        for k, (p, corrected) in enumerate(raw):
            largest = max(largest, min(1.0, (len(raw) - k) * p))
            assert corrected == pytest.approx(largest)


def test_labels_are_read_from_the_curve_of_what_has_no_task():
    curve = {5: 0.52, 10: 0.60, 20: 0.58, 40: 0.80}
    assert labels_worth(curve, 5, 0.52) == labels_worth(curve, 5, 0.1) == 0
    assert labels_worth(curve, 5, 0.56) == pytest.approx(5 * 2**0.5 - 5)
    assert labels_worth(curve, 5, 0.69) == pytest.approx(20 * 2**0.5 - 5)
    assert labels_worth(curve, 10, 0.80) == pytest.approx(30)
    assert labels_worth(curve, 10, 0.81) == math.inf
    (found,) = worths([budget(5), budget(20)], {"erasure": "probe", "task": "network"})
    assert (found.rung, found.labels, found.most) == ("erasure", 5, 20)
    assert found.more == pytest.approx(5 * 4 ** (0.09 / 0.19) - 5)
    assert found.gain == pytest.approx(0.09)


def test_tables_page_and_sentences_say_the_same():
    budgets = [budget(5), budget(20)]
    found = worths(budgets, {"erasure": "probe"})
    said = sentences(budgets, found)
    assert said[0].startswith("At 5 labels a class, take erasure: it is best with 61.0")
    assert "take probe: 71.0" in said[1]
    assert "the best, network with 72.0" in said[1]
    assert "erasing the discovered groups is worth as much as 5 more labels a class" in said[2]
    none = sentences([], [*worths([budget(20), budget(5)], {"network": "erasure"})])
    assert any("is worth no further label (" in line for line in none)
    rows = list(csv.DictReader(to_csv(budgets, said).splitlines()))
    assert len(rows) == 24
    told = {(row["labels"], row["rung"], row["seed"]): float(row["accuracy"]) for row in rows}
    assert told["5", "probe", "1"] == 0.54
    content = json.loads(to_json(budgets, found, said, {"probe": "a probe"}))
    assert [each["recommended"] for each in content["budgets"]] == ["erasure", "probe"]
    assert content["sentences"] == said
    markdown = to_markdown(budgets, said)
    assert markdown.count("\n| ") == 9
    assert all(line in markdown for line in said)
    page = render_ladder(budgets, said, {"probe": "a probe"}, "runs/ladder", "detaux ladder")
    assert page.count("<svg") == 1
    assert "What are more labels worth?" in page
    assert "<svg" not in render_ladder(budgets[:1], said[:1], {}, "runs/ladder", "detaux ladder")
