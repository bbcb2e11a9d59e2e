"""`detaux predict`: what a finished run says of images, by the command and from Python."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import detaux_pl
from detaux_pl.artifacts.files import read_json
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.cli.main import main
from detaux_pl.metrics.calibration import fit_temperature, scale

Refused = Callable[[list[str]], str]
ARM = "hard_parameter_sharing"


@pytest.fixture(scope="module")
def images(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images of the miniature run as files, as its networks saw them."""
    folder = tmp_path_factory.mktemp("images")
    data = detaux_pl.load(finished_run).data
    rows = data.dataset.rows("test")
    pixels = (data.images(rows) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for sample, image in zip(data.dataset.ids[rows], pixels, strict=True):
        Image.fromarray(image).save(folder / f"{sample:06}.png")
    return folder


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _predictions(run: Path, arm: str, seed: int) -> Predictions:
    return Predictions.load(run / "multitask" / arm / f"seed{seed}" / "predictions.npz", "again")


def test_a_test_image_from_its_file_is_what_the_training_was_told(
    finished_run: Path, images: Path, capsys: pytest.CaptureFixture[str]
):
    kept = _predictions(finished_run, ARM, 1)
    val, test = kept.of("val"), kept.of("test")
    temperature = fit_temperature(val.probabilities["principal"], val.target("principal"))
    expected = scale(test.probabilities["principal"], temperature)
    words = ["predict", str(finished_run), str(images), "--seeds", "1", "--top_k", "10"]
    assert main(words) == 0
    rows = _rows(capsys.readouterr().out)
    assert [Path(row["path"]).name for row in rows] == [f"{i:06}.png" for i in test.ids]
    for row, probabilities in zip(rows, expected, strict=True):
        names = [row["class"], *(row[f"class_{k}"] for k in range(2, 11))]
        values = [row["probability"], *(row[f"probability_{k}"] for k in range(2, 11))]
        found = {int(name): float(value) for name, value in zip(names, values, strict=True)}
        np.testing.assert_allclose([found[c] for c in range(10)], probabilities, atol=1e-5)
        assert values == sorted(values, reverse=True)
        assert row["error"] == ""


def test_all_seeds_answer_together(finished_run: Path, images: Path):
    kept = [_predictions(finished_run, ARM, seed) for seed in (0, 1)]
    classifier = detaux_pl.load(finished_run).classifier()
    found = classifier.predict(sorted(images.iterdir()))
    for task in ("principal", "auxiliary"):
        mean = np.mean([each.probabilities[task] for each in kept], axis=0)
        val, test = kept[0].splits == 1, kept[0].splits == 2
        temperature = fit_temperature(mean[val], kept[0].target(task)[val])
        assert classifier.card.temperatures[task] == pytest.approx(temperature, rel=1e-4)
        np.testing.assert_allclose(
            found.probabilities[task], scale(mean[test], temperature), atol=1e-5
        )
    order = found.probabilities["auxiliary"].argmax(axis=1)
    assert found.groups == [classifier.card.tasks["auxiliary"][group] for group in order]
    assert found.names == [str(c) for c in found.probabilities["principal"].argmax(axis=1)]


def test_every_way_to_name_images_and_every_form_says_the_same(
    finished_run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error_line: Refused,
):
    import pyarrow.parquet

    paths = sorted(images.iterdir())
    run = ["predict", str(finished_run)]

    def said(*words: str) -> list[dict[str, str]]:
        output = tmp_path / "said.csv"
        assert main([*run, *words, "--output", str(output)]) == 0
        return _rows(output.read_text())

    expected = said(*map(str, paths))
    assert len(expected) == 64
    assert said(str(images)) == expected
    table = tmp_path / "table.csv"
    table.write_text("file\n" + "".join(f"{path}\n" for path in paths))
    assert said(str(table), "--column", "file") == expected
    table.write_text("file; note\n" + "".join(f"{path}; a, b\n" for path in paths))  # European
    assert said(str(table), "--column", "file") == expected
    table.write_text(f"file,note\n{paths[0]},a\n{paths[1]},a,b\n")
    assert "table.csv, line 3: there are 3 values, but 2 columns" in error_line(
        [*run, str(table), "--column", "file"]
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{path}\n" for path in paths)))
    assert said("-") == expected
    for words in (["--batch_size", "7", "--num_workers", "0"], ["--num_workers", "3"]):
        again = said(str(images), *words)
        assert [row["path"] for row in again] == [row["path"] for row in expected]
        for one, two in zip(again, expected, strict=True):
            assert float(one["probability"]) == pytest.approx(float(two["probability"]), abs=2e-6)

    lines = tmp_path / "said.jsonl"
    assert main([*run, str(images), "--output", str(lines)]) == 0
    objects = [json.loads(line) for line in lines.read_text().splitlines()]
    whole = tmp_path / "said.parquet"
    assert main([*run, str(images), "--output", str(whole)]) == 0
    columns = pyarrow.parquet.read_table(whole).to_pylist()
    for row, line, column in zip(expected, objects, columns, strict=True):
        assert "error" not in line
        assert column["error"] is None
        for name in ("path", "class", "group"):
            assert row[name] == line[name] == column[name]
        for name in ("probability", "group_probability"):
            assert float(row[name]) == pytest.approx(line[name], abs=1e-6)
            assert column[name] == pytest.approx(line[name], abs=1e-6)


def test_a_file_that_cannot_be_read_leaves_the_others(
    finished_run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    whole = (folder / "000321.png").read_bytes()
    Image.open(folder / "000320.png").convert("RGB").resize((200, 200)).save(folder / "a.jpg")
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:900])
    (folder / "000321.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not an image")
    assert main(["predict", str(finished_run), str(folder)]) == 3
    said = capsys.readouterr()
    assert "2 images cannot be read" in said.err
    rows = {Path(row["path"]).name: row for row in _rows(said.out)}
    assert len(rows) == 65
    assert {name for name, row in rows.items() if row["error"]} == {"a.jpg", "000321.png"}
    assert rows["000321.png"]["class"] == ""
    assert rows["000322.png"]["class"] != ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}", "{empty}"], "there is no image in"),
        (["{run}", "{texts}"], "there is no image in"),
        (["{run}", "{images}/none.png"], "none.png does not exist"),
        (["{run}", "{images}", "--arm", "none"], "no finished arm 'none'; it has"),
        (["{run}", "{images}", "--seeds", "7"], "'hard_parameter_sharing' with seed 7; it has"),
        (["{run}", "{images}", "--seeds", "0", "0"], "name each seed of"),
        (["{empty}", "{images}"], "is no run folder"),
        (["{run}", "{images}", "--top_k", "0"], "--top_k: it is '0': give a whole number from 1"),
        (["{run}", "{images}", "--output", "{empty}"], "which is a folder"),
        (["{run}", "{images}", "--output", "said.png"], "no predictions are written as .png"),
        (["{run}", "{images}", "--format", "parquet"], "give --output"),
        (["{run}", "{table}", "--column", "none"], "has no column 'none': say --column, one of a"),
        (["{run}", "{images}", "--accelerator", "abacus"], "give auto or one of cpu"),
        (["{run}"], "required: IMAGES"),
    ],
)
def test_what_does_not_fit_is_one_line(
    words: list[str], said: str, finished_run: Path, images: Path, tmp_path: Path,
    error_line: Refused,
):  # fmt: skip
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("not an image")
    (tmp_path / "table.csv").write_text("a\nb\n")
    places = {name: str(tmp_path / name) for name in ("empty", "texts")}
    places |= {"table": str(tmp_path / "table.csv")}
    given = [word.format(run=finished_run, images=images, **places) for word in words]
    assert said in error_line(["predict", *given])


def test_a_run_without_a_finished_arm_has_nothing_to_ask(
    run_copy: Path, images: Path, error_line: Refused
):
    shutil.rmtree(run_copy / "multitask")
    line = error_line(["predict", str(run_copy), str(images)])
    assert "has no arm that finished, so there is no network to ask" in line


def test_a_changed_file_of_a_training_is_told(run_copy: Path, images: Path, error_line: Refused):
    path = run_copy / "multitask" / ARM / "seed0" / "classifier.json"
    card = read_json(path)
    path.write_text(json.dumps({**card, "temperatures": {"principal": 9.0, "auxiliary": 1.0}}))
    assert "classifier.json" in error_line(["predict", str(run_copy), str(images)])


@pytest.mark.slow
def test_killed_in_the_middle_it_leaves_no_output(finished_run: Path, images: Path, tmp_path: Path):
    output = tmp_path / "said" / "said.csv"
    words = [sys.executable, "-m", "detaux_pl", "predict", str(finished_run), "-"]
    process = subprocess.Popen([*words, "--output", str(output)], stdin=subprocess.PIPE)
    assert process.stdin is not None
    for _ in range(200):
        for path in images.iterdir():
            process.stdin.write(f"{path}\n".encode())
    process.stdin.flush()
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.glob("said/.*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    assert not output.exists()


def test_all_figures_of_a_test_follow_from_what_was_kept(finished_run: Path):
    for arm in (ARM, "single_task", "shuffled"):
        for seed in (0, 1):
            kept = _predictions(finished_run, arm, seed)
            stored = finished_run / "multitask" / arm / f"seed{seed}"
            figures: dict[str, Any] = read_json(stored / "test.json")
            assert figures == pytest.approx(_figures(kept.of("test")), abs=1e-5)
            assert len(kept.of("val").ids) == len(
                detaux_pl.load(finished_run).data.dataset.rows("val")
            )


def _figures(test: Predictions) -> dict[str, float]:
    """The figures of `test.json`, from probabilities and targets alone."""
    own = test.probabilities["principal"]
    right = own[np.arange(len(own)), test.target("principal")]
    figures = {"test/loss/principal": float(-np.log(right).mean())}
    for task in test.tasks:
        known = test.target(task) >= 0
        said, true = test.probabilities[task][known].argmax(axis=1), test.target(task)[known]
        figures[f"test/accuracy/{task}"] = float((said == true).mean())
        scores = []
        for c in range(test.probabilities[task].shape[1]):
            hits = ((said == c) & (true == c)).sum()
            n = (said == c).sum() + (true == c).sum()
            if n:  # a class that is neither there nor named counts for nothing
                scores.append(2 * hits / n)
        figures[f"test/f1/{task}"] = float(np.mean(scores))
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_of_all_sizes_are_told_by_the_names_of_a_table(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = ["cat / dog", 'a "b", <c>', "plain"]
    rng, rows = np.random.default_rng(0), ["image,pet"]
    for k in range(36):
        height, width = int(rng.integers(20, 60)), int(rng.integers(20, 60))
        pixels = rng.integers(0, 80, (height, width, 3)[: 2 + (mode == "RGB")])
        pixels += 80 * (k % 3)  # brightness tells the class
        path = tmp_path / "images" / f"{k:02}.{'png' if k % 2 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        quoted = names[k % 3].replace('"', '""')
        rows.append(f'images/{path.name},"{quoted}"')
    table, run = tmp_path / "pets.csv", tmp_path / "run"
    table.write_text("\n".join(rows) + "\n")
    words = ["multitask", "fit", "--run_dir", str(run), "--model=SingleTask"]
    words += ["--model.backbone=small_convnet", "--model.lr=0.01", "--trainer.max_epochs=60"]
    words += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    data = {"path": str(table), "principal": "pet", "image_size": 16, "val_share": 0.3}
    data |= {"channels": 3 if mode == "RGB" else 1, "cache_dir": str(tmp_path / "cache")}
    dataset = {"class_path": "ImageTable", "init_args": data}
    words += [f"--data.dataset={json.dumps(dataset)}", "--data.batch_size=8"]
    assert main(words) == 0
    capsys.readouterr()
    assert main(["predict", str(run), str(table), "--column", "image", "--top_k", "3"]) == 0
    found = _rows(capsys.readouterr().out)
    assert [row["path"] for row in found] == [str(tmp_path / row.split(",")[0]) for row in rows[1:]]
    assert "group" not in found[0]
    for row in found:
        assert {row["class"], row["class_2"], row["class_3"]} == set(names)
    right = [row["class"] == names[k % 3] for k, row in enumerate(found)]
    assert np.mean(right) > 0.9

    kept = Predictions.load(run / "multitask/single_task/seed0/predictions.npz", "again").of("test")
    classifier = detaux_pl.load(run).classifier()
    answers = classifier.predict([tmp_path / name for name in kept.ids])
    temperature = classifier.card.temperatures["principal"]
    np.testing.assert_allclose(
        answers.probabilities["principal"],
        scale(kept.probabilities["principal"], temperature), atol=1e-5,
    )  # fmt: skip
