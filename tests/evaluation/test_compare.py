"""Arms of several runs in one table, against numbers by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import write_json
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.main import main
from detaux_pl.evaluation.compare import Arm, compare
from detaux_pl.report.compare_table import cells, score_text, si
from detaux_pl.report.cost_charts import Priced, cost_chart, gaps_chart, pareto_front
from tests.report.test_report import Page

ALONE = {0: 0.20, 1: 0.30, 2: 0.40, 3: 0.25}
OURS = {0: 0.25, 1: 0.36, 2: 0.41, 3: 0.25, 4: 0.90}
THEIRS = {1: 0.29, 2: 0.38}
ONE = {3: 0.5}
COST = {
    "parameters": 11_181_642, "inference_parameters": 5_000_000, "flops": 1_500_000_000,
    "seconds_per_epoch": 12.34, "peak_memory": 999_700, "device": "cpu",
    "samples_per_second": 100.0,
}  # fmt: skip


def write_training(
    run: Path,
    arm: str,
    seed: int,
    score: float | None,
    cost: Mapping[str, Any] | None = None,
    auxiliary: Any = "discovered",
    principal: str = "digit",
    noise: float = 0.1,
) -> None:
    """Leave what a training does; without a score, what an interrupted one does."""
    dataset = {"class_path": "DigitScenes", "init_args": {"principal": principal}}
    data = {
        "class_path": "LabelledDataModule",
        "init_args": {
            "dataset": dataset, "noise": {"amount": noise}, "auxiliary": auxiliary, "seed": seed,
        },
    }  # fmt: skip
    folder = StageFolder(run, f"multitask/{arm}/seed{seed}")
    folder.begin({"data": data}, {}, {})
    (folder.path / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    if score is None:
        return
    metrics = {"test/accuracy/principal": score, "test/f1/principal": score / 2}
    if arm != "single_task":
        metrics["test/accuracy/auxiliary"] = 0.9
    write_json(folder.path / "test.json", metrics)
    if cost is not None:
        write_json(folder.path / "cost.json", cost)
    folder.finish([folder.path / "test.json"], 1.0)


def write_arm(run: Path, arm: str, scores: Mapping[int, float], **more: Any) -> None:
    for seed, score in scores.items():
        write_training(run, arm, seed, score, **more)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two runs of one task, one of them with costs and something unfinished."""
    write_arm(tmp_path / "a", "single_task", ALONE)
    write_arm(tmp_path / "a", "ours", OURS, cost=COST)
    write_training(tmp_path / "a", "ours", 5, None)
    write_arm(tmp_path / "a", "location", {0: 0.6, 1: 0.7}, auxiliary="location")
    write_arm(tmp_path / "b", "theirs", THEIRS)
    return tmp_path


def lines_of(capsys: pytest.CaptureFixture[str], args: list[str]) -> tuple[list[str], list[str]]:
    """Run the command; return its table, and what it says beside it."""
    capsys.readouterr()
    assert main(["compare", *args]) == 0
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def refused(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    capsys.readouterr()
    assert main(["compare", *args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_every_number_of_the_table():
    arms = [
        Arm("a", "single_task", "", ALONE),
        Arm("a", "ours", "", OURS, [COST, {**COST, "seconds_per_epoch": None}]),
        Arm("b", "theirs", "", THEIRS, [{**COST, "seconds_per_epoch": 3.0}] * 2),
        Arm("b", "one", "", ONE),
        Arm("b", "apart", "ceiling", {7: 0.95}),
    ]
    found = compare(arms, arms[0])
    names = ["b/apart", "b/one", "a/ours", "b/theirs", "a/single_task"]
    assert [row.name for row in found.rows] == names
    rows = {row.arm.arm: row for row in found.rows}
    assert found.reference is rows["single_task"]
    assert found.best is rows["one"]  # a ceiling does not compete
    ours = rows["ours"]
    values = np.array(list(OURS.values()))
    half = 2.7764451051977987 * values.std(ddof=1) / 5**0.5  # t of 4 degrees of freedom
    assert ours.summary.mean == pytest.approx(values.mean(), rel=1e-12)
    assert ours.summary.high == pytest.approx(values.mean() + half, rel=1e-9)
    assert dict(ours.gaps) == pytest.approx({0: 0.05, 1: 0.06, 2: 0.01, 3: 0.0})
    assert ours.outcomes == (3, 0, 1)
    p_ours = stats.ttest_rel([0.25, 0.36, 0.41, 0.25], [0.2, 0.3, 0.4, 0.25]).pvalue
    p_theirs = stats.ttest_rel([0.29, 0.38], [0.3, 0.4]).pvalue
    assert ours.test is not None
    assert ours.test.p_value == pytest.approx(p_ours, rel=1e-9)
    assert ours.test.difference.mean == pytest.approx(0.03)
    # Two tests: the smaller p doubles, the larger one is at least that.
    assert found.n_tests == 2
    assert ours.p_holm == pytest.approx(2 * p_ours, rel=1e-9)
    assert rows["theirs"].p_holm == pytest.approx(max(2 * p_ours, p_theirs), rel=1e-9)
    assert rows["theirs"].outcomes == (0, 2, 0)
    # One pair allows no test, no pair no difference; unknown costs do not count.
    assert (rows["one"].p_holm, rows["one"].outcomes) == (None, (1, 0, 0))
    assert (rows["apart"].test, dict(rows["apart"].gaps)) == (None, {})
    assert ours.cost["seconds_per_epoch"] == 12.34
    assert rows["theirs"].cost["seconds_per_epoch"] == 3.0
    assert set(rows["one"].cost.values()) == {None}


def test_a_difference_that_is_shown_is_marked():
    rng = np.random.default_rng(0)
    alone = {seed: float(value) for seed, value in enumerate(0.3 + 0.05 * rng.normal(size=8))}
    shifted = {
        shift: {seed: value + shift + 0.002 * (-1) ** seed for seed, value in alone.items()}
        for shift in (0.1, -0.1, 0.0001)
    }
    arms = [Arm("r", "alone", "", alone)]
    arms += [Arm("r", str(shift), "", scores) for shift, scores in shifted.items()]
    found = compare(arms, arms[0])
    marked = {row.name: cells(found, row)[3] for row in found.rows}
    assert marked == {
        "0.1": "+10.0*", "0.0001": "+0.0", "alone": "", "-0.1": "\N{MINUS SIGN}10.0*",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"), (0, "0"), (512, "512"), (999.4, "999"), (999.6, "1.00 k"), (1000, "1 k"),
        (11_181_642, "11.2 M"), (999_700, "1.00 M"), (1.5e9, "1.50 G"), (123_456, "123 k"),
        (99_960, "100 k"), (9_996, "10.0 k"), (2e18, "2000 P"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, text: str):
    assert si(value) == text


def test_arms_without_scores_are_refused():
    arm = Arm("r", "alone", "", ALONE)
    with pytest.raises(UserError, match="the reference among them"):
        compare([arm], Arm("r", "alone", "", ALONE))
    with pytest.raises(UserError, match="a finished training each"):
        compare([arm, Arm("r", "none", "", {})], arm)


def test_one_run(study: Path, capsys: pytest.CaptureFixture[str]):
    table, beside = lines_of(capsys, [str(study / "a"), "--format=markdown"])
    assert table[0].split(" | ")[3] == "vs single_task \\[points]"
    rows = {line.split(" | ")[0].strip("|* "): line for line in table[2:5]}
    assert list(rows) == ["location (ceiling)", "ours", "single_task"]
    assert rows["ours"] == (
        "| **ours** | 5 | **43.4 ± 33.5** | +3.0 | 0.134 | 0.134 | 3/0/1 | 11.2 M (5 M) | 1.50 G "
        "| 12.3 | 1.00 MB |"
    )
    assert rows["location (ceiling)"].split(" | ")[3:6] == ["+40.0", "n/a", "n/a"]
    assert rows["single_task"].endswith("|  |  |  |  | n/a | n/a | n/a | n/a |")
    assert "after Holm's correction for 1 test." in table[-1]
    assert beside == ["1 unfinished training, left out: ours seed 5"]


def test_several_runs(study: Path, capsys: pytest.CaptureFixture[str]):
    words = [str(study / "a"), str(study / "b")]
    table, beside = lines_of(capsys, words)
    assert [line.split()[1] for line in table if line.startswith("│")] == [
        "a/location", "a/ours", "b/theirs", "a/single_task",
    ]  # fmt: skip
    assert beside == ["1 unfinished training, left out: a/ours seed 5"]
    table, _ = lines_of(capsys, [*words, "--against", "b/theirs", "--format=markdown"])
    assert "vs b/theirs" in table[0]
    assert "| 2/0/0 |" in next(line for line in table if "a/ours" in line)
    again, _ = lines_of(capsys, [*words, "--against", "theirs", "--format=markdown"])
    assert again == table


def test_other_scores(study: Path, capsys: pytest.CaptureFixture[str]):
    words = [str(study / "a"), "--format=markdown"]
    table, _ = lines_of(capsys, [*words, "--metric=f1"])
    assert "| macro-F1 \\[%]" in table[0]
    assert "| 14.4 ± 6.8 |" in next(line for line in table if "| single_task |" in line)
    table, beside = lines_of(capsys, [*words, "--task=auxiliary"])
    assert "| auxiliary accuracy \\[%]" in table[0]
    assert not any("| single_task" in line for line in table)
    assert "without the task auxiliary, left out: single_task" in beside
    line = refused(capsys, [*words, "--task=auxiliari"])
    assert line.endswith("--task 'auxiliari': did you mean 'auxiliary'?")


def test_latex(study: Path, capsys: pytest.CaptureFixture[str]):
    table, _ = lines_of(capsys, [str(study / "a"), "--format=latex"])
    assert table[-1] == "\\end{tabular}"
    assert any(
        line.startswith("\\textbf{ours} & 5 & \\textbf{43.4 $\\pm$ 33.5} &") for line in table
    )
    rows = [line for line in table if line.endswith(" \\\\")]
    assert {line.count(" & ") for line in rows} == {10}
    assert any(line.startswith("single\\_task & 4 & ") for line in rows)


@pytest.mark.parametrize("name", ["table.md", "table.tex", "table.txt", "page.html"])
def test_the_name_of_the_output_gives_its_format(
    study: Path, capsys: pytest.CaptureFixture[str], name: str
):
    form = {"md": "markdown", "tex": "latex", "html": "html"}.get(name.split(".")[1], "text")
    path = study / "out" / name
    words = [str(study / "a"), "--output", str(path)]
    assert lines_of(capsys, words)[0] == []
    text = path.read_text()
    shown, _ = lines_of(capsys, [str(study / "a"), "--format", form])
    if form != "html":  # a page holds the command that made it
        assert text.splitlines() == shown
    lines_of(capsys, [*words, "--format=markdown"])
    assert path.read_text().startswith("| arm |")


def test_runs_of_one_name_are_told_apart(study: Path, capsys: pytest.CaptureFixture[str]):
    for group in ("x", "y"):
        write_arm(study / group / "seed0", "single_task", ALONE)
    write_arm(study / "solo", "single_task", ALONE)
    words = [str(study / name) for name in ("x/seed0", "y/seed0", "solo")]
    table, _ = lines_of(capsys, [*words, "--format=markdown"])
    names = {line.split(" | ")[0].strip("|* ") for line in table[2:5]}
    assert names == {"x/seed0/single_task", "y/seed0/single_task", "solo/single_task"}
    # Equal scores differ by nothing, which no test can doubt.
    assert sum("| +0.0 | 1.000 | 1.000 | 0/0/4 |" in line for line in table) == 2


def test_runs_of_other_data(study: Path, capsys: pytest.CaptureFixture[str]):
    write_arm(study / "noisy", "ours", OURS, noise=0.3)
    _, beside = lines_of(capsys, [str(study / "b"), str(study / "noisy")])
    assert beside == ["b and noisy differ in their data: noise.amount was 0.1, is 0.3"]
    write_arm(study / "hue", "ours", OURS, principal="hue")
    line = refused(capsys, [str(study / "a"), str(study / "hue")])
    assert "the principal task of hue is hue, that of a digit: compare runs of one task." in line
    for run, n_classes in (("a", 10), ("b", 8)):
        write_json(
            study / run / "disentangle" / "codes" / "codes.json",
            {
                "factor_names": ["x", "digit"], "factor_sizes": [3, n_classes],
                "principal": "digit", "principal_subspace": 0, "n_samples": 5,
            },
        )  # fmt: skip
    line = refused(capsys, [str(study / "a"), str(study / "b")])
    assert "the number of classes of b is 8, that of a 10" in line


def test_what_is_refused(study: Path, capsys: pytest.CaptureFixture[str]):
    one = str(study / "a")
    assert "is given twice" in refused(capsys, [one, f"{one}/"])
    assert "is no run folder: it has no trained arm" in refused(capsys, [one, str(study)])
    assert "nowhere is no run folder" in refused(capsys, [str(study / "nowhere")])
    write_training(study / "new", "ours", 0, None)
    assert "new has no finished training" in refused(capsys, [str(study / "new")])
    line = refused(capsys, [one, "--against", "single_tusk"])
    assert line == "error: --against is 'single_tusk': did you mean 'single_task'?"
    assert "--metric" in refused(capsys, [one, "--metric=loss"])
    assert "required: RUN_DIR" in refused(capsys, [])
    assert "cannot be written" in refused(capsys, [one, "--output", one])
    path = study / "a" / "multitask" / "ours" / "seed1" / "test.json"
    path.write_text(path.read_text().replace("0.36", "0.96"))
    assert "test.json was changed after the stage wrote it" in refused(capsys, [one])


def test_the_kinds_of_arms(study: Path, capsys: pytest.CaptureFixture[str]):
    run = study / "kinds"
    # A chain whose main arm has the true labels gives these to its baselines too.
    write_arm(run, "single_task", ALONE, auxiliary="location")
    write_arm(run, "shuffled", ALONE, auxiliary="shuffled")
    write_arm(run, "both", ALONE, auxiliary=["location", "background"])
    table, _ = lines_of(capsys, [str(run), "--format=markdown"])
    names = {line.split(" | ")[0].strip("|* ") for line in table[2:5]}
    assert names == {"single_task", "shuffled (control)", "both (ceiling)"}


def test_the_page(study: Path, capsys: pytest.CaptureFixture[str]):
    words = [str(study / "a"), str(study / "b"), "--format=html"]
    write_arm(study / "b", "good", {seed: s + 0.1 + 0.001 * seed for seed, s in ALONE.items()})
    shown, _ = lines_of(capsys, words)
    text = "\n".join(shown)
    page = Page(text)
    assert page.open == []
    assert page.tags.count("svg") == 2
    assert page.tags.count("section") == 4
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    for words_of_page in (
        "b/good does better than the reference: digit accuracy 38.9&nbsp;%, +10.2 points over "
        "a/single_task",
        "Out of competition (ceiling, learns the true labels of hidden factors): a/location.",
        "1 unfinished training, left out: a/ours seed 5.",
        "11.2 M<small>5 M at test</small>",
        "Costs are not known of a/location, b/good, b/theirs, a/single_task.",
        f"detaux compare {study / 'a'} {study / 'b'} --format=html",
    ):
        assert words_of_page in text
    (table,) = [line for line in shown if "<td>good<small>b · 4 seeds</small></td>" in line]
    assert "▲</span> +10.2<small>" in table
    assert "<td>4 / 0 / 0</td>" in table


@pytest.mark.parametrize(
    ("arms", "tone", "says"),
    [
        ({"other": [0.3, 0.2, 0.1]}, "none", "No arm is shown to do better than single_task"),
        ({"other": [0.09, 0.18, 0.285]}, "loss", "is 20.0&nbsp;% with single_task; the other arm"),
        ({"other": [0.21, 0.32, 0.41]}, "gain", "other leads: digit accuracy 31.3&nbsp;%"),
        ({}, "open", "No test: digit accuracy is 20.0&nbsp;% with single_task"),
    ],
)
def test_the_headline(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arms: dict[str, list[float]],
    tone: str,
    says: str,
):
    for arm, scores in {"single_task": [0.1, 0.2, 0.3], **arms}.items():
        write_arm(tmp_path / "r", arm, dict(enumerate(scores)))
    text = "\n".join(lines_of(capsys, [str(tmp_path / "r"), "--format=html"])[0])
    assert f'<header class="{tone}">' in text
    assert says in text
    assert "What does it cost?" not in text  # nothing is known
    assert ("Seed by seed" in text) == bool(arms)


def test_the_front_is_what_nothing_cheaper_reaches():
    points = [(3.0, 5.0), (1.0, 2.0), (2.0, 1.0), (2.0, 4.0), (4.0, 4.5), (1.0, 1.5), (5.0, 5.0)]
    assert pareto_front(points) == [(1.0, 2.0), (2.0, 4.0), (3.0, 5.0)]
    assert pareto_front([]) == []


def test_charts_of_little():
    method = Priced("one", 30.0, None, (None, 0.2), "#000000", "o", False)
    figure = cost_chart([method], ("parameters", "seconds"), "accuracy [%]")
    (axes,) = figure.axes  # of what is known
    assert axes.get_xlabel() == "seconds (logarithmic)"
    low, high = axes.get_xlim()
    assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 2
    figure = gaps_chart({"one": {0: 0.0}, "two": {3: -2.0}})
    assert [text.get_text() for text in figure.axes[0].texts] == ["+0.0", "\N{MINUS SIGN}2.0"]


def test_score_of_one_seed():
    arm = Arm("r", "alone", "", {0: 0.12345})
    assert score_text(compare([arm], arm).rows[0].summary) == "12.3"


def test_a_table_needs_no_torch(study: Path):
    code = (
        "import sys; from detaux_pl.cli.main import main; "
        f"main(['compare', {str(study / 'a')!r}]); "
        "assert not {'torch', 'lightning', 'matplotlib', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
