from __future__ import annotations

import numpy as np
import pytest

from detaux_pl.artifacts.errors import UserError
from detaux_pl.report.metric_table import collate, lay_out

DASH = "\N{EN DASH}"


def run(dim, subspace=None, shape=(4, 1), factors=("hue",)):
    return {
        "shape": list(shape),
        "factors": list(factors),
        "scores": {"dim": dim, "subspace": subspace or {}},
    }


def test_every_number_is_a_mean_and_a_population_variance():
    values = [0.1, 0.25, 0.7]
    study = collate({"a": [run({"mig": x, "irs": 1 - x}, {"irs": x**2}) for x in values]})
    for key, numbers in {
        ("dim", "mig"): values,
        ("dim", "irs"): [1 - x for x in values],
        ("subspace", "irs"): [x**2 for x in values],
    }.items():
        found = study["a"][key]
        mean = sum(numbers) / 3
        assert found.mean == pytest.approx(mean, rel=1e-9)
        assert found.variance == pytest.approx(sum((x - mean) ** 2 for x in numbers) / 3, rel=1e-9)
        assert found.n == 3


def test_columns_are_in_the_order_of_the_metrics_whatever_a_group_lacks():
    study = collate(
        {
            "a": [run({"irs": 0.5}, {"sap": 0.25}), run({"irs": 0.5}, {"sap": 0.25})],
            "b": [run({"mig": 0.125, "gaussian_wasserstein": 2 / 3, "new_score": 7.0, "irs": 1.0})],
        },
        {"a": [0.2, 0.4]},
    )
    grid = lay_out(study)
    assert [head for _, head in grid.heads] == [
        "MIG [%]", "IRS [%]", "Gaussian Wasserstein distance", "new score",
        "SAP [%] (subspaces)", "UDR [%]",
    ]  # fmt: skip
    assert grid.blocks == [
        [
            ("a", [DASH, "50.0 (0.0)", DASH, DASH, "25.0 (0.0)", "30.0 (100.0)"]),
            ("b", ["12.5", "100.0", "0.667", "7", DASH, DASH]),
        ]
    ]
    turned = lay_out(study, "scores")
    assert turned.lower == ["score", "a", "b"]
    rows = dict(turned.blocks[0])
    assert list(rows) == [head for _, head in grid.heads]
    np.testing.assert_array_equal(
        np.transpose(list(rows.values())), [cells for _, cells in grid.blocks[0]]
    )


def test_a_score_that_one_seed_lacks_the_group_lacks():
    study = collate({"a": [run({"mig": 0.5, "irs": 0.5}), run({"irs": 0.25})]})
    assert list(study["a"]) == [("dim", "irs")]


def test_a_table_without_upper_heads_has_one_line_of_heads():
    grid = lay_out(collate({"a_b": [run({"mig": 0.5})], "c": [run({"irs": 0.5})]}))
    assert grid.to_markdown() == (
        f"| group | MIG \\[%] | IRS \\[%] |\n| --- | ---: | ---: |\n"
        f"| a_b | 50.0 | {DASH} |\n| c | {DASH} | 50.0 |\n"
    )
    assert grid.to_latex() == (
        "\\begin{tabular}{lrr}\n\\toprule\ngroup & MIG [\\%] & IRS [\\%] \\\\\n\\midrule\n"
        "a\\_b & 50.0 & -- \\\\\nc & -- & 50.0 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )
    assert grid.to_html() == (
        "<table><thead><tr><th>group</th><th>MIG [%]</th><th>IRS [%]</th></tr></thead>\n"
        f"<tbody>\n<tr><td>a_b</td><td>50.0</td><td>{DASH}</td></tr>\n"
        f"<tr><td>c</td><td>{DASH}</td><td>50.0</td></tr>\n</tbody></table>\n"
    )
    assert [str(column.header) for column in grid.to_rich().columns] == [
        "group", "MIG [%]", "IRS [%]"
    ]  # fmt: skip


def test_refuses_runs_that_do_not_belong_together():
    one = [run({"mig": 0.5})]
    with pytest.raises(UserError, match="b was judged by hue, size, the first run by hue: run"):
        collate({"a": one, "b": [run({"mig": 0.5}, factors=("hue", "size"))]})
    with pytest.raises(UserError, match="b was judged by no factor, the first"):
        collate({"a": one, "b": [run({"mig": 0.5}, factors=())]})
    with pytest.raises(UserError, match="a has runs with codes of 4x1 and 2x2 numbers"):
        collate({"a": [*one, run({"mig": 0.5}, shape=(2, 2))]})
    with pytest.raises(UserError, match="a group without one"):
        collate({"a": one, "b": []})
