from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from detaux_pl.artifacts.errors import UserError
from detaux_pl.report.probe_table import collate, lay_out
from tests.evaluation import published
from tests.evaluation.published import entries

MINUS = "\N{MINUS SIGN}"


def runs(table, name="z"):
    return [
        {
            "tasks": ["DC", "BC"],
            "chance": {"DC": 0.1, "BC": 0.1},
            "n_train": 100,
            "n_test": 100,
            "inputs": {name: entry},
        }
        for entry in entries(table)
    ]


def both_inputs():
    """The probes of r and z of one run."""
    (z, _), (r, _) = runs(published.INFO_MIN_Z), runs(published.INFO_MIN_R, "r")
    return [{**z, "inputs": {**r["inputs"], **z["inputs"]}}]


@pytest.fixture(scope="module")
def study():
    groups = {
        "ortho": runs(published.ORTHOGONALITY_RUNS),
        "hessian": runs(published.HESSIAN_RUNS),
        "supervised": runs(published.SUPERVISED_DC_BC),
        "infomin": both_inputs(),
    }
    return collate(groups, against="supervised")


@pytest.mark.parametrize(
    ("group", "means", "variances", "diagonal"),
    [
        ("ortho", (4.4167, 3.0833), (4.42, 3.35, 3.08, 7.42), 2),
        ("hessian", (7.55, 3.1833), (7.55, 22.79, 3.18, 7.36), 5),
    ],
)
def test_gaps_over_runs_are_the_published_ones(study, group, means, variances, diagonal):
    summary = study.inputs[group]["z"]
    gaps = [summary.gaps[task] for task in ("DC", "BC")]
    assert [100 * gap.mean for gap in gaps] == pytest.approx(means, abs=1e-4)
    found = [x for gap in gaps for x in (100 * gap.mean, 1e4 * gap.variance)]
    assert found == pytest.approx(variances, abs=0.0051)
    assert (summary.diagonal, summary.n) == (diagonal, 6)


def test_every_number_is_a_mean_and_a_population_variance(study):
    table = np.array(published.HESSIAN_RUNS) / 100
    summary = study.inputs["hessian"]["z"]
    for row, found in enumerate([summary.full, *summary.slices]):
        for column, task in enumerate(("DC", "BC")):
            values = table[row, column::2].tolist()
            mean = sum(values) / 6
            assert found[task].mean == pytest.approx(mean, rel=1e-9)
            assert found[task].variance == pytest.approx(
                sum((value - mean) ** 2 for value in values) / 6, rel=1e-9
            )
    r3 = [(0.973 - dc + 0.645 - bc) / 2 for dc, bc in table[0].reshape(6, 2)]
    assert summary.requirements["R3"].mean == pytest.approx(np.mean(r3), rel=1e-9)
    assert summary.requirements["R3"].variance == pytest.approx(np.var(r3), rel=1e-9)
    # The input r has no row in the group that R3 refers to.
    assert set(study.inputs["infomin"]["r"].requirements) == {"R1", "R2"}


ACCURACIES = """\
| input | ortho DC | ortho BC | hessian DC | hessian BC | supervised DC | supervised BC | infomin DC | infomin BC |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| z | 97.1 (0.0) | 61.1 (1.7) | 87.0 (98.7) | 56.8 (0.4) | 97.3 | 64.5 | 74.3 | 60.7 |
| z₀ | 82.6 (29.8) | 58.0 (1.4) | 63.0 (122.1) | 39.8 (19.9) | 97.3 | 10.1 | 74.4 | 60.6 |
| z₁ | 78.2 (18.8) | 56.0 (15.9) | 55.5 (77.5) | 41.4 (52.6) | 11.7 | 64.5 | 74.2 | 60.8 |
| \\|C(z₀) − C(z₁)\\| | 4.4 (3.4) | 3.1 (7.4) | 7.5 (22.8) | 3.2 (7.4) | 85.6 | 54.4 | 0.2 | 0.2 |
| r |  |  |  |  |  |  | 97.0 | 63.1 |
| r₀ |  |  |  |  |  |  | 97.0 | 62.8 |
| r₁ |  |  |  |  |  |  | 97.0 | 63.0 |
| \\|C(r₀) − C(r₁)\\| |  |  |  |  |  |  | 0.0 | 0.2 |
| chance | 10.0 (0.0) | 10.0 (0.0) | 10.0 (0.0) | 10.0 (0.0) | 10.0 | 10.0 | 10.0 | 10.0 |
"""  # noqa: E501, RUF001

SUMMARY = """\
| group | z DC | z BC | z gap DC | z gap BC | z R1 | z R2 | z R3 | z diagonal | r DC | r BC | r gap DC | r gap BC | r R1 | r R2 | r diagonal |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| ortho | 97.1 (0.0) | 61.1 (1.7) | 4.4 (3.4) | 3.1 (7.4) | 57.4 (12.6) | 9.1 (9.8) | 1.8 (0.4) | 2 of 6 |  |  |  |  |  |  |  |
| hessian | 87.0 (98.7) | 56.8 (0.4) | 7.5 (22.8) | 3.2 (7.4) | 37.4 (43.7) | 19.5 (69.0) | 9.0 (23.7) | 5 of 6 |  |  |  |  |  |  |  |
| supervised | 97.3 | 64.5 | 85.6 | 54.4 | 0.9 | 0.0 | 0.0 | 1 of 1 |  |  |  |  |  |  |  |
| infomin | 74.3 | 60.7 | 0.2 | 0.2 | 57.4 | −0.1 | 13.4 | 1 of 1 | 97.0 | 63.1 | 0.0 | 0.2 | 69.9 | 0.1 | 0 of 1 |
"""  # noqa: E501, RUF001


@pytest.mark.parametrize(("layout", "expected"), [("accuracies", ACCURACIES), ("summary", SUMMARY)])
def test_markdown(study, layout, expected):
    assert lay_out(study, layout).to_markdown() == expected


def cells(markdown):
    """The rows of a Markdown table, without the rule."""
    lines = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in markdown.splitlines()]
    return [[cell.replace("\\|", "|") for cell in line] for line in (lines[0], *lines[2:])]


class Rows(HTMLParser):
    """Reads the cells of a table, row by row."""

    def __init__(self, page):
        super().__init__()
        self.rows = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


@pytest.mark.parametrize("layout", ["accuracies", "summary"])
def test_all_formats_show_the_same(study, layout):
    head, *rows = cells(lay_out(study, layout).to_markdown())
    tops, lower, *found = Rows(lay_out(study, layout).to_html()).rows
    assert found == rows
    assert lower == [head[0], *(text.split(" ", 1)[1] for text in head[1:])]
    assert tops == ["", *dict.fromkeys(text.split(" ", 1)[0] for text in head[1:])]

    text = io.StringIO()
    Console(file=text, width=400).print(lay_out(study, layout).to_rich())
    lines = [line for line in text.getvalue().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines] == rows

    lines = [line for line in lay_out(study, layout).to_latex().splitlines() if " & " in line]
    shown = [line.removesuffix(r" \\").split(" & ") for line in lines[2:]]
    assert [
        [re.sub(r"\$_(\d)\$", lambda m: chr(0x2080 + int(m[1])), cell) for cell in line]
        for line in shown
    ] == [[cell.replace("|", "$|$").replace(MINUS, "$-$") for cell in row] for row in rows]


def test_latex_is_a_booktabs_table():
    study = collate({"a_1 & 5%": runs(published.SUPERVISED_DC_BC)})
    assert lay_out(study, "accuracies").to_latex() == (
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        " & \\multicolumn{2}{c}{a\\_1 \\& 5\\%} \\\\\n"
        "\\cmidrule(lr){2-3}\n"
        "input & DC & BC \\\\\n"
        "\\midrule\n"
        "z & 97.3 & 64.5 \\\\\n"
        "z$_0$ & 97.3 & 10.1 \\\\\n"
        "z$_1$ & 11.7 & 64.5 \\\\\n"
        "$|$C(z$_0$) $-$ C(z$_1$)$|$ & 85.6 & 54.4 \\\\\n"
        "\\midrule\n"
        "chance & 10.0 & 10.0 \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_names_cannot_break_a_table():
    study = collate({"<b>|[red]*`\\": runs(published.SUPERVISED_DC_BC)})
    assert "<th" in lay_out(study, "summary").to_html()
    assert "&lt;b&gt;|[red]*`\\" in lay_out(study, "summary").to_html()
    assert r"| \<b>\|\[red]\*\`\\ | 97.3 |" in lay_out(study, "summary").to_markdown()
    assert r"$<$b$>$$|$[red]*`\textbackslash{} & 97.3" in lay_out(study, "summary").to_latex()
    text = io.StringIO()
    Console(file=text, width=200).print(lay_out(study, "summary").to_rich())
    assert "│ <b>|[red]*`\\ │" in text.getvalue()


def test_slices_that_a_group_lacks_stay_blank():
    probes = runs(published.SUPERVISED_DC_BC)[0]
    entry = probes["inputs"]["z"]
    three = {**entry, "slices": [*entry["slices"], {"DC": 0.5, "BC": 0.25}]}
    one = {**entry, "slices": entry["slices"][:1]}
    groups = {
        name: [{**probes, "inputs": {"z": each}}] for name, each in (("3", three), ("1", one))
    }
    rows = {row[0]: row[1:] for row in cells(lay_out(collate(groups), "accuracies").to_markdown())}
    assert rows["z₂"] == ["50.0", "25.0", "", ""]
    assert rows[f"best {MINUS} second best"] == ["47.3", "39.5", "", ""]
    head, _, last = cells(lay_out(collate(groups), "summary").to_markdown())
    assert dict(zip(head, last, strict=True))["z diagonal"] == ""
    alone = lay_out(collate({"1": groups["1"]}), "accuracies").to_markdown()
    assert [row[0] for row in cells(alone)] == ["input", "z", "z₀", "chance"]
    assert "R1" not in lay_out(collate({"1": groups["1"]}), "summary").to_markdown()


def test_refuses_runs_that_do_not_belong_together():
    one = runs(published.SUPERVISED_DC_BC)
    other = [{**one[0], "tasks": ["DC"]}]
    with pytest.raises(UserError, match="b was probed for DC, the first run for DC, BC: probe all"):
        collate({"a": one, "b": other})
    r = runs(published.SUPERVISED_DC_BC, "r")
    with pytest.raises(UserError, match="a has runs of different inputs"):
        collate({"a": [*one, *r]})
    with pytest.raises(UserError, match="R3 is to refer to 'c': the groups are a, b"):
        collate({"a": one, "b": r}, against="c")
    with pytest.raises(UserError, match="a group without one"):
        collate({"a": one, "b": []})
    with pytest.raises(ValueError, match="layout is 'wide': it is accuracies or summary"):
        lay_out(collate({"a": one}), "wide").to_html()
