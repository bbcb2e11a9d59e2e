"""`detaux errors`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from detaux_pl.artifacts.files import write_json
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.cli.main import main
from detaux_pl.inference.run import load
from tests.report.fake_predictions import guesses, keep, predictions

MAIN, ALONE = "hard_parameter_sharing", "single_task"
NAMES = ["cat", "[red]dog[/red]", "lynx, wild", "<owl>"]
FILES = ["confusion.csv", "mistakes.csv", "per_class.csv", "reliability.csv", "suspects.csv"]
TARGETS = np.random.default_rng(0).integers(0, 4, 150)


@pytest.fixture
def run_dir(tmp_path):
    """A run of nothing but predictions: three seeds of the main arm, two alone."""
    folder = tmp_path / "run"
    (folder / "disentangle").mkdir(parents=True)
    for arm, seeds, skill in ((MAIN, 3, 1.2), (ALONE, 2, 0.8)):
        for seed in range(seeds):
            said = predictions(TARGETS, 50, guesses(TARGETS, 4, seed, skill))
            keep(folder, arm, seed, said, NAMES)
    return folder


def read(path):
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_tables_of_a_run(run_dir, tmp_path, capsys):
    out = tmp_path / "out" / "errors"
    assert main(["errors", str(run_dir), "--arm", MAIN, "--output", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    own = load(run_dir).together(MAIN)
    assert f"{(~own.right).sum()} mistakes of {MAIN}" in capsys.readouterr().err
    classes = read(out / "per_class.csv")
    assert [row["class"] for row in classes] == NAMES
    for k, row in enumerate(classes):
        mine = own.targets == k
        assert float(row["recall"]) == pytest.approx(own.right[mine].mean())
        assert int(row["images"]) == mine.sum()
        assert "baseline_recall" not in row  # single_task lacks a seed
    pairs = read(out / "confusion.csv")
    assert list(pairs[0]) == ["true", "predicted", "n", "share"]
    assert sum(int(row["n"]) for row in pairs) == 100
    for name in NAMES:
        assert sum(float(r["share"]) for r in pairs if r["true"] == name) == pytest.approx(1)
    wrong = read(out / "mistakes.csv")
    assert {int(row["id"]) for row in wrong} == set(own.ids[~own.right].tolist())
    every = (own.votes != own.targets).all(axis=0) & ~own.right
    assert {int(row["id"]) for row in read(out / "suspects.csv")} == set(own.ids[every].tolist())
    assert {row["calibrated"] for row in read(out / "reliability.csv")} == {"True", "False"}


def test_seeds_are_compared_with_their_like(run_dir, tmp_path):
    out = tmp_path / "errors"
    args = ["--arm", MAIN, "--seeds", "1", "0", "--output", str(out)]
    assert main(["errors", str(run_dir), *args]) == 0
    alone = load(run_dir).together(ALONE)
    for k, row in enumerate(read(out / "per_class.csv")):
        expected = alone.right[alone.targets == k].mean()
        assert float(row["baseline_recall"]) == pytest.approx(expected)
    assert main(["errors", str(run_dir), "--arm", MAIN, "--seeds", "2", "--output", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert read(out / "suspects.csv") == []
    assert "baseline_recall" not in read(out / "per_class.csv")[0]


def test_classes_on_the_terminal(run_dir, capsys):
    assert main(["errors", str(run_dir), "--arm", ALONE]) == 0
    text = capsys.readouterr().out
    own = load(run_dir).together(ALONE)
    assert f"animal · {ALONE}, 2 seeds together: {100 * own.accuracy:.1f} % right" in text
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    rows = [line for line in lines if len(line) > 2]
    assert {row[0] for row in rows} == set(NAMES)
    recalls = [float(row[2]) for row in rows]
    assert recalls == sorted(recalls)
    assert recalls[0] == pytest.approx(
        min(100 * own.right[own.targets == k].mean() for k in range(4)), abs=0.05
    )


def test_bad_input_is_one_line(run_dir, tmp_path, error_line):
    file = tmp_path / "file"
    file.write_text("")
    for args, says in (
        ([str(tmp_path)], "is no run folder"),
        ([str(run_dir)], "give --arm, one of hard_parameter_sharing, single_task"),
        ([str(run_dir), "--arm", "other"], "has no finished arm 'other'"),
        ([str(run_dir), "--arm", MAIN, "--seeds", "7"], "with seed 7; it has"),
        ([str(run_dir), "--arm", MAIN, "--seeds", "0", "0"], "name each seed"),
        ([str(run_dir), "--arm", MAIN, "--output", str(file)], "which is a file"),
        ([str(run_dir), "--seeds", "x"], "invalid int value: 'x'"),
        ([], "required: RUN"),
    ):
        assert says in error_line(["errors", *args])


def test_runs_that_have_nothing_to_tell(run_dir, tmp_path, error_line):
    empty = tmp_path / "empty"
    (empty / "disentangle").mkdir(parents=True)
    assert "has no arm that finished" in error_line(["errors", str(empty)])
    manifest = run_dir / "multitask" / MAIN / "seed1" / "stage.json"
    content = json.loads(manifest.read_text())
    del content["outputs"]["predictions.npz"]  # as earlier versions left it
    write_json(manifest, content)
    line = error_line(["errors", str(run_dir), "--arm", MAIN])
    assert "kept no predictions of labelled test images" in line
    assert "--redo multitask" in line
    assert main(["errors", str(run_dir), "--arm", MAIN, "--seeds", "0"]) == 0


def test_baseline_of_an_earlier_version_is_left_out(run_dir, capsys):
    for seed in range(2):
        manifest = run_dir / "multitask" / ALONE / f"seed{seed}" / "stage.json"
        content = json.loads(manifest.read_text())
        content["outputs"] = {}
        write_json(manifest, content)
    assert main(["errors", str(run_dir), "--arm", MAIN, "--seeds", "0", "1"]) == 0
    assert ALONE not in capsys.readouterr().out


def test_a_killed_writer_leaves_the_table_before(run_dir, tmp_path, monkeypatch):
    out = tmp_path / "errors"
    args = ["errors", str(run_dir), "--arm", MAIN, "--output", str(out)]
    assert main(args) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def stop(self, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(csv.DictWriter, "writerows", stop)
    assert main(args) != 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_report_of_a_chain_says_the_same(finished_run: Path, tmp_path: Path):
    report = json.loads((finished_run / "report" / "report.json").read_text(encoding="utf-8"))
    run = load(finished_run)
    for arm, told in report["arms"].items():
        together = run.together(arm)
        assert told["ensemble"]["accuracy"] == together.accuracy
        assert told["ensemble"]["temperature"] == together.temperature
        seeds = (together.votes == together.targets).mean(axis=1)
        assert told["accuracies"] == pytest.approx(seeds.tolist(), abs=1e-6)
        if arm != "shuffled":  # the control, of which figures alone are kept
            card = run.classifier(arm).card
            assert card.temperatures["principal"] == together.temperature
    assert main(["errors", str(finished_run), "--output", str(tmp_path)]) == 0
    errors = report["errors"]
    assert errors["arm"] == MAIN
    rows = read(tmp_path / "per_class.csv")
    assert [list(row) for row in errors["per_class"]] == [list(row) for row in rows]
    for told, row in zip(errors["per_class"], rows, strict=True):
        assert ["" if value is None else str(value) for value in told.values()] == list(
            row.values()
        )
    assert [str(each["id"]) for each in errors["mistakes"]] == [
        row["id"] for row in read(tmp_path / "mistakes.csv")
    ]
    stage = finished_run / "multitask" / MAIN / "seed0"
    said = Predictions.load(stage / "predictions.npz", "")
    assert set(run.together().ids.tolist()) == set(said.of("test").ids.tolist())
