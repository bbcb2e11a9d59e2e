"""The table, the curves and the page of a sweep, and the results that they show."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detaux_pl.artifacts.files import write_json
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.evaluation.results import read_results
from detaux_pl.report import sweep_table
from detaux_pl.report.sweep_figures import Line, sweep_chart
from detaux_pl.report.sweep_page import render_sweep
from detaux_pl.report.sweep_table import Outcome, number_text, short_names, tabulate

BETA = "disentangle.model.init_args.beta"
DIM = "disentangle.model.init_args.latent_dim"


def _outcomes() -> list[Outcome]:
    rng = np.random.default_rng(0)
    return [
        Outcome(
            3 * k + seed,
            "complete",
            {BETA: beta, "model": "a_b", "seed": seed},
            {
                "metrics.mig": 0.1 * k + 0.01 * rng.normal(),
                "metrics.gaussian_total_correlation": 10.0 / beta + 0.01 * rng.normal(),
                "probes.z.shape": 0.5,
                "probes.z.slice0.shape": 0.4,
                "auxiliary.nmi_principal": float(rng.uniform()),
                "seconds": 100.0,
            },
        )
        for k, beta in enumerate((1, 4, 32))
        for seed in range(3)
    ]


def test_trials_are_grouped_by_all_but_the_seed():
    outcomes = _outcomes()
    table = tabulate(outcomes)
    assert table.varied == (BETA,)
    assert table.constant == {"model": "a_b"}
    assert [group.parameters[BETA] for group in table.groups] == [1, 4, 32]
    for group in table.groups:
        assert group.n == 3
        for column in table.columns:
            values = [
                each.results[column]
                for each in outcomes
                if each.parameters[BETA] == group.parameters[BETA]
            ]
            mean = sum(values) / 3
            std = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
            assert group.cells[column].mean == pytest.approx(mean, rel=1e-9)
            assert group.cells[column].std == pytest.approx(std, rel=1e-9, abs=1e-15)
    assert table.columns == (
        "metrics.mig", "metrics.gaussian_total_correlation", "probes.z.shape",
        "auxiliary.nmi_principal", "seconds",
    )  # fmt: skip
    # Equal means are no contest, and neither is what has no better.
    assert {column: set(best) for column, best in table.best.items()} == {
        "metrics.mig": {2}, "metrics.gaussian_total_correlation": {2}, "probes.z.shape": set(),
        "auxiliary.nmi_principal": set(), "seconds": set(),
    }  # fmt: skip
    assert "disentangle" not in " ".join(sweep_table.head(table))
    assert list(table.titles.values())[:2] == ["MIG", "Gaussian total correlation [nats] ↓"]


def test_unfinished_and_failed_trials_count_as_such():
    outcomes = _outcomes()
    outcomes[4] = Outcome(4, "failed", outcomes[4].parameters, {}, "ValueError: <no> luck")
    outcomes[8] = Outcome(8, "unfinished", outcomes[8].parameters, {})
    table = tabulate(outcomes, ["metrics.mig", "metrics.gig", "probes.z.slice0.shape"])
    assert [sweep_table.cells(table, group)[:2] for group in table.groups] == [
        ["1", "3"], ["4", "2 of 3"], ["32", "2 of 3"],
    ]  # fmt: skip
    assert table.groups[1].cells["metrics.mig"].n == 2
    remarks = sweep_table.remarks(table)
    assert remarks[0] == (
        "no trial has the result 'metrics.gig', which is left out: did you mean 'metrics.mig'?"
    )
    assert remarks[1] == "1 trial not finished: 8"
    assert remarks[2] == "trial 4 (beta 4 · model a_b · seed 1) failed: ValueError: <no> luck"
    page = render_sweep(table, "beta", "detaux sweep --config 'b <c>.yaml'")
    assert "1 failed" in page
    assert "ValueError: &lt;no&gt; luck" in page
    assert 'href="trials/4/log.txt"' in page
    assert "'b &lt;c&gt;.yaml'" in page or "&#x27;b &lt;c&gt;.yaml&#x27;" in page
    nothing = [Outcome(k, "unfinished", each.parameters, {}) for k, each in enumerate(outcomes)]
    assert "0 finished trials" in render_sweep(tabulate(nothing), "beta", "")
    with pytest.raises(ValueError, match="there is no trial"):
        tabulate([])


def test_written_tables():
    table = tabulate(_outcomes(), ["metrics.mig", "metrics.gaussian_total_correlation"])
    markdown = sweep_table.to_markdown(table)
    lines = markdown.splitlines()
    assert lines[0].startswith("| beta | trials | MIG |")
    assert len(lines[2].split("|")) == len(lines[0].split("|")) == 6
    assert re.match(r"\| 32 \| 3 \| \*\*0\.\d{3} ± 0\.\d{3}\*\* \|", lines[4])
    assert "The same in all trials: model a\\_b." in markdown
    latex = sweep_table.to_latex(table)
    assert "\\begin{tabular}{lrrr}" in latex
    assert latex.count("\\textbf{") == 2
    assert re.search(r"\$\\pm\$", latex)
    assert "↓" not in latex.split("\\begin")[1]
    rows = list(csv.DictReader(io.StringIO(sweep_table.to_csv(table))))
    assert len(rows) == 9
    assert float(rows[7]["metrics.mig"]) == table.outcomes[7].results["metrics.mig"]
    assert rows[7]["probes.z.slice0.shape"] == "0.4"
    content = json.loads(sweep_table.to_json(table))
    values = [each["results"]["metrics.mig"] for each in content["trials"][:3]]
    assert content["groups"][0]["results"]["metrics.mig"] == {
        "mean": statistics.fmean(values), "std": statistics.stdev(values), "n": 3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.31249, "0.312"), (-0.5, "\N{MINUS SIGN}0.500"), (-1e-9, "0.000"), (99.9999, "100.0"),
        (123.46, "123.5"), (999.96, "1000"), (12345.6, "12346"),
    ],
)  # fmt: skip
def test_numbers(value: float, text: str):
    assert number_text(value) == text


def test_short_names():
    names = ["a.model.lr", "b.model.lr", "seed", "b.seed", "b.model.beta"]
    assert list(short_names(names).values()) == [
        "a.model.lr",
        "b.model.lr",
        "seed",
        "b.seed",
        "beta",
    ]
    assert [sweep_table.value_text(v) for v in (None, True, 1e-5, 4, 4.0, "x")] == [
        "null", "true", "1e-05", "4", "4", "x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "scale", "labels"),
    [
        ((1, 4, 16), "log", ["1", "4", "16"]),
        ((1, 10, 16), "linear", ["1", "10", "16"]),
        ((1, 4, 32), "log", ["1", "4", "32"]),
        ((30_000, 500_000, 1_000_000), "log", ["30k", "500k", "1M"]),
        ((-1, 0, 100), "linear", ["\N{MINUS SIGN}1", "0", "100"]),
    ],
)
def test_axes_of_the_curves(values: tuple[int, ...], scale: str, labels: list[str]):
    points = {float(x): [0.1 * k, 0.1 * k + 0.02] for k, x in enumerate(values)}
    lines = [Line("a", {"mig": points}), Line("b", {"mig": {float(values[0]): [0.5]}})]
    figure = sweep_chart(lines, {"mig": "MIG", "sap": "SAP"}, "beta")
    first, second, *_ = figure.axes
    assert first.get_xscale() == scale
    figure.draw_without_rendering()
    assert [tick.get_text() for tick in first.get_xticklabels()] == labels
    means = first.lines[1]
    np.testing.assert_allclose(means.get_xdata(), values)
    np.testing.assert_allclose(means.get_ydata(), [0.1 * k + 0.01 for k in range(3)])
    (band,) = first.collections
    edges = band.get_paths()[0].vertices[:, 1]
    spread = statistics.stdev([0.0, 0.02])
    assert edges.min() == pytest.approx(0.01 - spread)
    assert edges.max() == pytest.approx(0.21 + spread)
    assert not second.lines
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_a_chart_for_every_parameter_that_is_a_number():
    outcomes = [
        Outcome(n, "complete", {BETA: beta, DIM: dim, "model": m, "deep": dim > 9}, {"seconds": 1})
        for n, (beta, dim, m) in enumerate(
            (beta, dim, m) for beta in (1.0, 40.0) for dim in (8, 16) for m in ("x", "y")
        )
    ]  # fmt: skip
    page = render_sweep(tabulate(outcomes), "grid", "detaux sweep")
    assert re.findall(r"<h2>(Over [^<]+)</h2>", page) == ["Over beta", "Over latent_dim"]
    legend = page[page.index("Over beta") :]
    for label in ("latent_dim 8, model x, deep false", "latent_dim 16, model y, deep true"):
        assert label in legend
    assert "http" not in re.sub(r"<a href=\"trials/\d+\">", "", page)


def test_random_values_are_points():
    rng = np.random.default_rng(1)
    outcomes = [
        Outcome(n, "complete", {BETA: rng.uniform(), DIM: rng.uniform()}, {"metrics.mig": 0.1 * n})
        for n in range(12)
    ]
    page = render_sweep(tabulate(outcomes), "random", "detaux sweep")
    assert page.count("Points are trials, which differ in other parameters too.") == 2


def test_results_of_a_run_by_dotted_name(tmp_path: Path):
    def write(name: str, content: Any) -> None:
        write_json(tmp_path / name, content)

    assert read_results(tmp_path) == {}
    for name, seconds in (("disentangle", 1.5), ("evaluate", 2.0)):
        folder = StageFolder(tmp_path, name)
        folder.begin({}, {}, {})
        folder.finish([], seconds)
    write(
        "evaluate/metrics.json",
        {"scores": {"dim": {"mig": 0.5, "sap": None}, "subspace": {"mig": float("nan"), "irs": 1}}},
    )
    write(
        "evaluate/probes.json",
        {"inputs": {"z": {"full": {"hue": 0.9}, "slices": [{"hue": 0.1}, {"hue": 0.8}]}}},
    )
    write(
        "report/report.json",
        {
            "arms": {"main": {"kind": "", "accuracy_mean": 0.25, "seeds": [0], "p_value": None}},
            "auxiliary": {"nmi_principal": 0.01, "rule": "ratio", "best": True},
        },
    )
    assert read_results(tmp_path) == {
        "metrics.mig": 0.5, "metrics.subspace.irs": 1.0,
        "probes.z.hue": 0.9, "probes.z.slice0.hue": 0.1, "probes.z.slice1.hue": 0.8,
        "arms.main.accuracy_mean": 0.25, "auxiliary.nmi_principal": 0.01, "seconds": 3.5,
    }  # fmt: skip
