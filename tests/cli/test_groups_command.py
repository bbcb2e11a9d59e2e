"""`detaux groups`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from detaux_pl.artifacts.labels import AuxiliaryLabels, save_tasks
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.artifacts.yaml_text import dump_yaml
from detaux_pl.cli.main import main
from detaux_pl.inference.run import load
from tests.report.fake_predictions import guesses, keep, predictions

MAIN, ALONE = "hard_parameter_sharing", "single_task"
NAMES = ["cat", "[red]dog[/red]"]
TARGETS, GROUPS = np.random.default_rng(0).integers(0, (2, 3), (240, 2)).T
SPLITS = np.where(np.arange(240) < 80, 1, 2).astype(np.int8)


@pytest.fixture
def run_dir(tmp_path):
    """A run of nothing but predictions and labels: two seeds of two arms."""
    folder = tmp_path / "run"
    (folder / "disentangle").mkdir(parents=True)
    for arm, skill in ((MAIN, 1.2), (ALONE, 0.8)):
        for seed in range(2):
            said = predictions(TARGETS, 80, guesses(TARGETS, 2, seed, skill))
            keep(folder, arm, seed, said, NAMES)
    write_groups(folder, GROUPS)
    return folder


def write_groups(folder, groups):
    empty = np.zeros(240, bool), np.ones(240, np.float32)
    (folder / "cluster").mkdir(exist_ok=True)
    AuxiliaryLabels(np.arange(240), SPLITS, groups, *empty, 3).save(folder / "cluster")


def test_cells_of_every_arm_as_csv(run_dir, tmp_path, capsys):
    path = tmp_path / "out" / "groups.csv"
    assert main(["groups", str(run_dir), "--output", str(path)]) == 0
    assert "12 rows of 2 arms" in capsys.readouterr().err
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["arm"] for row in rows} == {MAIN, ALONE}
    for row in rows:
        own = load(run_dir).together(row["arm"], split="val")
        cell = own.targets == NAMES.index(row["class"])
        cell &= GROUPS[own.ids] == int(row["group"].removeprefix("cluster "))
        assert float(row["val_accuracy"]) == pytest.approx(own.right[cell].mean())
        assert int(row["val_images"]) == cell.sum()
        assert row["train_images"] == ""  # this run has no codes


def test_the_terminal_says_which_is_worst(run_dir, capsys):
    assert main(["groups", str(run_dir), "--arm", ALONE]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "which validation images say is the worst" in text
    assert "[red]dog[/red]" in text


def test_groups_of_an_alarm_come_first(run_dir, tmp_path, capsys, error_line):
    stage = StageFolder(run_dir, "cluster")
    stage.begin({}, {}, {})
    write_groups(run_dir, GROUPS)
    empty = np.zeros(240, bool), np.ones(240, np.float32)
    alarm = AuxiliaryLabels(np.arange(240), SPLITS, TARGETS, *empty, 2)
    paths = save_tasks([alarm], stage.path / "shortcuts")
    stage.finish([*paths, *stage.path.glob("labels.*")], 1.0)
    counts = {}
    for name in ("shortcut1", "task1", None):
        path = tmp_path / "groups.csv"
        given = ["groups", str(run_dir), "--arm", MAIN, "--output", str(path)]
        assert main(given if name is None else [*given, "--groups", name]) == 0
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        counts[name] = len(rows)
        assert {row["groups"] for row in rows} == {name or "shortcut1"}
    assert counts == {"shortcut1": 2, "task1": 6, None: 2}
    paths[0].write_bytes(b"other")
    assert "was changed" in error_line(["groups", str(run_dir), "--arm", MAIN])


def test_bad_input_is_one_line(run_dir, tmp_path, error_line):
    given = ["groups", str(run_dir), "--arm", MAIN]
    assert "the run has task1" in error_line([*given, "--groups", "task2"])
    assert "ending in .csv" in error_line([*given, "--output", str(tmp_path / "groups")])
    assert "no finished arm 'other'" in error_line(["groups", str(run_dir), "--arm", "other"])
    assert "give --arm" in error_line(["groups", str(run_dir)])
    write_groups(run_dir, np.where(SPLITS == 1, -1, GROUPS))
    assert "no labelled val image is in a group" in error_line(given)
    write_groups(run_dir, np.zeros(240, int))
    assert "are in one group" in error_line(given)
    write_groups(run_dir, np.where(SPLITS == 1, GROUPS // 2, GROUPS))
    assert main(given) == 0
    (run_dir / "cluster" / "labels.npz").unlink()
    assert "labels.npz is missing" in error_line(given)


def test_arms_that_saw_validation_images_are_marked(run_dir, tmp_path, capsys):
    model = {"class_path": "detaux_pl.multitask.class_scaling.ClassScaling"}
    for arm, own in ((MAIN, model), (ALONE, {"class_path": "SingleTask"})):
        config = {"model": own, "data": {"class_path": "LabelledDataModule"}}
        (run_dir / "multitask" / arm / "seed0" / "config.yaml").write_text(dump_yaml(config))
    path = tmp_path / "groups.csv"
    assert main(["groups", str(run_dir), "--output", str(path)]) == 0
    assert f"note: {MAIN}: fitted to the validation images" in capsys.readouterr().err
    with path.open(encoding="utf-8", newline="") as handle:
        refitted = {row["arm"]: row["refitted"] for row in csv.DictReader(handle)}
    assert refitted == {MAIN: "True", ALONE: "False"}


def test_a_cell_without_validation_images_is_noted(run_dir, capsys):
    write_groups(run_dir, np.where(SPLITS == 1, GROUPS // 2, GROUPS))
    assert main(["groups", str(run_dir), "--arm", MAIN]) == 0
    assert "note: 2 cells of a class and a group without" in capsys.readouterr().err


def test_report_of_a_chain_says_the_same(finished_run: Path, tmp_path: Path):
    report = json.loads((finished_run / "report" / "report.json").read_text(encoding="utf-8"))
    path = tmp_path / "groups.csv"
    assert main(["groups", str(finished_run), "--output", str(path)]) == 0
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for arm, told in report["groups"]["arms"].items():
        own = [row for row in rows if row["arm"] == arm]
        assert len(own) == told["n_cells"]
        for row, cell in zip(own, told["cells"], strict=True):
            assert row == {
                "arm": arm,
                "refitted": str(told["refitted"]),
                "groups": report["groups"]["of"],
                **{name: "" if value is None else str(value) for name, value in cell.items()},
            }
    codes = load(finished_run).codes
    assert 200 < sum(int(row["train_images"]) for row in own) <= codes.rows("train").size
    page = (finished_run / "report" / "report.html").read_text(encoding="utf-8")
    assert 'id="groups"' in page
    assert (finished_run / "report" / "figures" / "groups.png").is_file()


def test_a_chain_says_what_goes_with_the_label(finished_run: Path):
    found = json.loads((finished_run / "cluster" / "shortcuts.json").read_text(encoding="utf-8"))
    report = json.loads((finished_run / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["shortcuts"] == {**found, "classes": [str(k) for k in range(10)]}
    assert len(found["relations"]) >= 1
    page = (finished_run / "report" / "report.html").read_text(encoding="utf-8")
    assert 'id="shortcuts"' in page
    assert "What goes with digit" in page
