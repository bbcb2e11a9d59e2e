from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import write_json
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.report.error_charts import confusion_chart, mistakes_sheet, reliability_chart
from detaux_pl.report.report import arms_table, write_report
from detaux_pl.report.sections import arms, calibration, errors, mistakes
from detaux_pl.report.style import to_png, to_svg
from detaux_pl.report.wording import short_name
from tests.report.fake_predictions import guesses, keep, predictions, view_of
from tests.report.fake_run import ARMS, SEEDS, images_of, write_run
from tests.report.test_report import Page, cut, read, rows_of

MAIN, ALONE = "hard_parameter_sharing", "single_task"
SECTIONS = [arms.SECTION, errors.SECTION, calibration.SECTION, mistakes.SECTION]
FIGURES = ["confusion", "confusion_by_recall", "confusion_by_likeness", "reliability", "mistakes"]


def name_of(k):
    return f"<b>owl</b> & co/{k} " + "of a very long name, " * (k % 7 == 0)


def shown(view):
    """The numbers, the figures and the page of the sections about errors."""
    report = {"main": view.arms[0], "baseline": view.baseline, "principal": "animal"}
    for section in SECTIONS:
        report |= section.describe(view)
    charts = {
        name: to_svg(figure, name, alt)
        for section in SECTIONS
        for name, alt, figure in section.draw(view, report)
    }
    parts = [part for section in SECTIONS for part in section.render(report, charts) if part.body]
    page = "".join(f'<section id="{part.name}">{part.body}</section>' for part in parts)
    return report, charts, page


def words_of(page, name=None):
    text = " ".join(Page(cut(page, name) if name else page).text)
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.slow
@pytest.mark.parametrize(("n_classes", "n_test", "skill"), [(100, 1000, 1.8), (1000, 1400, 2.4)])
def test_page_of_many_classes_stays_small(tmp_path, n_classes, n_test, skill):
    names = [name_of(k) for k in range(n_classes)]
    view = view_of(tmp_path, names, n_test, {MAIN: (skill + 0.2, 2), ALONE: (skill, 2)}, side=96)
    report, charts, page = shown(view)
    json.dumps(report, allow_nan=False)
    assert len(page) < 600_000
    assert all(len(chart) < 150_000 for chart in charts.values())
    assert Page(page).open == []
    assert "<script" not in page
    assert "<b>" not in page
    words = words_of(page, "errors")
    left_out = "Shown are 100 of 1,000 classes"
    assert words.count(left_out) == (4 if n_classes == 1000 else 0)  # by matrix, and the table
    table = [row for row in rows_of(page, "errors") if len(row) == 8]
    assert len(table) == 100
    recalls = [float(row[2]) for row in table]
    assert recalls == sorted(recalls)
    told = report["errors"]
    assert f"Shown are 20 of {told['n_confusions']:,} pairs of classes" in words
    assert f"Shown are 20 of {told['n_mistakes']:,} mistakes" in words_of(page, "mistakes")
    assert f"Shown are 40 of {told['n_suspects']:,} images" in words_of(page, "mistakes")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    view = view_of(folder, [name_of(k) for k in range(8)], 200, {MAIN: (1.2, 3), ALONE: (0.8, 3)})
    return view, *shown(view)


def test_everything_is_drawn_and_named(few):
    _, report, charts, page = few
    assert list(charts) == ["arms", *FIGURES]
    assert "<b>" not in page.replace("&lt;b&gt;", "")
    table = [row for row in rows_of(page, "errors") if len(row) == 8]
    assert {row[0] for row in table} == {
        short_name(name_of(k), 40).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        for k in range(8)
    }
    for row in report["errors"]["per_class"]:
        cells = next(cells for cells in table if f"co/{row['class'].split('/')[2][0]}" in cells[0])
        expected = [
            f"{100 * row[who + name]:.1f}"
            for name in ("recall", "precision", "f1")
            for who in ("", "baseline_")
        ]
        assert cells[1:] == [str(row["images"]), *expected]
    assert report["errors"]["baseline"] == ALONE
    for name in ("confusion", "confusion_by_recall", "confusion_by_likeness"):
        assert charts[name] in page
    assert page.count('type="radio"') == 3
    assert page.count(" checked") == 1


def test_all_seeds_together_are_a_row(few):
    view, report, _, page = few
    ensemble = report["arms"][MAIN]["ensemble"]
    together = view.together[MAIN]
    right = np.mean(together.predicted == together.targets)
    assert ensemble["accuracy"] == right
    assert ensemble["ece_calibrated"] < ensemble["ece"]
    rows = {row[0]: row for row in rows_of(page, "arms")}
    cells = rows[f"{MAIN} · all seeds together"]
    assert cells[1] == f"{100 * right:.1f}&nbsp;%"
    gap = right - view.together[ALONE].accuracy
    assert cells[4] == f"{100 * gap:+.1f}".replace("-", "\N{MINUS SIGN}")
    low, high = ensemble["ci95"]
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in words_of(page, "arms")
    assert report["arms"][ALONE]["ensemble"]["difference"] is None
    console = Console(width=80)
    with console.capture() as captured:
        console.print(arms_table(report))
    lines = [[cell.strip() for cell in row.split("│")] for row in captured.get().splitlines()]
    place = next(place for place, row in enumerate(lines) if MAIN in row)
    label, accuracy, difference, *_ = lines[place + 1][1:]
    assert (label, accuracy) == ("all seeds together", f"{100 * right:.1f} %")
    assert difference == f"{100 * gap:+.1f}".replace("-", "\N{MINUS SIGN}")


def test_calibration_is_told_of_every_arm(few):
    _, report, _, page = few
    assert rows_of(page, "calibration") == [
        [
            name,
            *(f"{arm['ensemble'][key]:.3f}" for key in ("ece", "ece_calibrated")),
            f"{arm['ensemble']['temperature']:.3g}",
        ]
        for name, arm in report["arms"].items()
    ]


def test_suspects_are_listed_with_their_ids(few):
    _, report, _, page = few
    told = report["errors"]
    rows = rows_of(page, "mistakes")
    assert [row[0] for row in rows] == [str(each["id"]) for each in told["suspects"][:40]]
    assert rows[0][5] == f"{told['suspects'][0]['agreeing_seeds']} of 3"


def test_pictures_are_those_of_the_mistakes(few, tmp_path):
    view, report, _, _ = few
    asked = []

    def images(rows):
        asked.extend(rows.tolist())
        return torch.zeros(len(rows), 1, 8, 8)

    ids = np.array([f"photos/{row:04d}.png" for row in range(300)])
    targets = view.codes.factors[:, 0]
    for seed in range(2):
        said = predictions(targets, 100, guesses(targets, 8, seed), ids)
        keep(tmp_path, MAIN, seed, said, [name_of(k) for k in range(8)])
    other = replace(
        view, run_dir=tmp_path, images=images, arms=[MAIN], baseline=None,
        codes=replace(view.codes, ids=ids),
    )  # fmt: skip
    report, charts, page = shown(other)
    wrong = report["errors"]["mistakes"][:20]
    assert [f"photos/{row:04d}.png" for row in asked] == [each["id"] for each in wrong]
    assert "photos/" in words_of(page, "mistakes")
    assert "mistakes" in charts


def test_one_seed_without_a_baseline(tmp_path):
    view = view_of(tmp_path, ["a", "b", "c"], 40, {MAIN: (1.0, 1)}, baseline=None)
    report, _, page = shown(view)
    assert report["errors"]["suspects"] is None
    assert report["errors"]["n_suspects"] is None
    assert "here is one seed only" in words_of(page, "mistakes")
    assert "all seeds together" not in words_of(page, "arms").partition("A dot is")[0]
    assert report["arms"][MAIN]["ensemble"]["seeds"] == [0]
    assert f"{MAIN}, one seed: " in words_of(page, "errors")
    assert len(rows_of(page, "errors")[-1]) == 5
    assert arms_table(report).row_count == 1


def test_two_classes_and_a_class_without_an_image(tmp_path):
    names = ["seen", "never"]
    targets = np.zeros(30, np.int64)
    said = np.tile([0.9, 0.1], (30, 1))
    said[20:] = [0.2, 0.8]
    for seed in range(2):
        keep(tmp_path, MAIN, seed, predictions(targets, 10, said), names)
    view = view_of(tmp_path / "other", names, 20, {MAIN: (1.0, 1)}, baseline=None)
    report, _, page = shown(replace(view, run_dir=tmp_path, seeds=[0, 1]))
    json.dumps(report, allow_nan=False)
    seen, never = report["errors"]["per_class"]
    assert (seen["recall"], seen["precision"], seen["taken_for"]) == (0.5, 1.0, "never")
    assert (never["recall"], never["precision"], never["f1"]) == (None, 0.0, 0.0)
    assert [row[0] for row in rows_of(page, "errors") if len(row) == 5] == names
    assert 'type="radio"' not in page  # two classes have no other order to see


def test_no_mistake_has_no_sheet(tmp_path):
    targets = np.arange(30) % 3
    said = predictions(targets, 10, np.eye(3)[targets])
    keep(tmp_path, MAIN, 0, said, "abc")
    view = view_of(tmp_path / "other", "abc", 20, {MAIN: (1.0, 1)}, baseline=None)
    _, charts, page = shown(replace(view, run_dir=tmp_path))
    assert "mistakes" not in charts
    assert 'id="mistakes"' not in page
    assert "100.0 % of 20 test images are told right" in words_of(page, "errors")


def test_whole_report(tmp_path, small_pictures):
    data = images_of()
    write_run(tmp_path, data)
    rows = np.flatnonzero(data.dataset.splits > 0)
    digits = data.dataset.factor("digit")[rows]
    # Of the baseline three seeds only were trained by a version that keeps predictions.
    for arm, seeds in ((MAIN, SEEDS), (ALONE, SEEDS[:3])):
        for seed in seeds:
            said = Predictions(
                data.dataset.ids[rows], data.dataset.splits[rows], digits[:, None],
                {"principal": guesses(digits, 10, seed, 1.5)},
            )  # fmt: skip
            keep(tmp_path, arm, seed, said, [str(k) for k in range(10)])
    report = write_report(tmp_path, ARMS, ALONE, SEEDS, data.images)
    assert report["errors"]["baseline_seeds"] == [0, 1, 2]
    assert report["arms"][MAIN]["ensemble"]["difference"] is None  # five seeds against three
    assert {report["arms"][arm]["ensemble"] for arm in ARMS[2:]} == {None}
    text = read(tmp_path)
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
    assert {"errors", "calibration", "mistakes"} <= set(page.ids)
    assert not re.search(r"https?://|@import|<script|<link|<iframe|url\((?!#)", text)
    assert {f"{name}.png" for name in FIGURES} <= {
        path.name for path in (tmp_path / "report" / "figures").iterdir()
    }
    assert json.loads((tmp_path / "report" / "report.json").read_text("utf-8")) == report


def test_run_of_an_earlier_version_has_no_such_sections(tmp_path):
    view = view_of(tmp_path, "abc", 40, {MAIN: (1.0, 2), ALONE: (1.0, 2)})
    for path in tmp_path.rglob("predictions.npz"):
        path.unlink()
    for path in tmp_path.rglob("stage.json"):
        write_json(path, json.loads(path.read_text()) | {"outputs": {}})
    report, charts, page = shown(view)
    assert report["errors"] is None
    assert {arm["ensemble"] for arm in report["arms"].values()} == {None}
    assert list(charts) == ["arms"]
    assert re.findall('id="([a-z]+)"', page) == ["arms"]
    assert [row[0] for row in rows_of(page, "arms")] == [MAIN, ALONE]
    assert arms_table(report).row_count == 2


def test_changed_predictions_are_refused(tmp_path):
    view = view_of(tmp_path, "abc", 40, {MAIN: (1.0, 1)}, baseline=None)
    path = tmp_path / "multitask" / MAIN / "seed0" / "predictions.npz"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=r"predictions\.npz was changed"):
        _ = view.together


def test_seeds_of_other_classes_do_not_answer_together(tmp_path):
    targets = np.arange(30) % 3
    said = predictions(targets, 10, np.eye(3)[targets])
    keep(tmp_path, MAIN, 0, said, "abc")
    keep(tmp_path, MAIN, 1, said, "abd")
    keep(tmp_path, ALONE, 0, said, "abcd")
    view = view_of(tmp_path / "other", "abc", 20, {MAIN: (1.0, 2)}, baseline=None)
    with pytest.raises(ArtifactError, match="learnt different classes"):
        _ = replace(view, run_dir=tmp_path).together
    with pytest.raises(ArtifactError, match="names other classes"):
        _ = replace(view, run_dir=tmp_path, arms=[ALONE]).together


def test_names_in_any_letters_are_drawn():
    names = ["猫", "a\nb", "$x_1$", "l" * 99]
    figure = confusion_chart(np.eye(4, dtype=np.int64), np.ones(4, np.int64), names)
    to_png(figure)
    svg = to_svg(figure, "c", "")
    assert "猫" in svg
    assert "a b" in svg
    assert "$x_1$" in svg
    assert short_name("l" * 99, 24) in svg


def test_matrix_is_of_rows():
    counts = np.array([[3, 1], [0, 0]])
    svg, again = (
        to_svg(confusion_chart(counts, counts.sum(axis=1), ["cat", "dog"]), "c", "")
        for _ in range(2)
    )
    assert svg == again
    assert sorted(re.findall(r">(\d+)<", svg)) == ["25", "75"]


def test_sheet_of_odd_shapes():
    rows = [{"true": "t" * 40, "predicted": "p", "probability": 0.995}] * 3
    for shape in ((1, 3, 300), (3, 200, 100), (4, 8, 8)):
        svg = to_svg(mistakes_sheet(np.ones((3, *shape), np.float32), rows), "m", "")
        assert svg.count("<image") == 3
        assert ">p 100 %<" in svg.replace("\N{NO-BREAK SPACE}", " ")


def test_reliability_of_one_bin():
    bins = [{"confidence": 0.9, "accuracy": 0.5, "low": 0.2, "high": 0.8, "images": 4}]
    assert reliability_chart({"a": bins, "b": bins}).axes[0].get_title(loc="left") == "a"


@pytest.mark.parametrize(
    ("name", "length", "short"),
    [
        ("cat", 4, "cat"),
        ("lesser spotted eagle", 11, "lesse…eagle"),
        ("a \n b", 9, "a b"),
        ("lesser spotted owl", 4, "le…l"),
    ],
)
def test_names_keep_both_ends(name, length, short):
    assert short_name(name, length) == short
