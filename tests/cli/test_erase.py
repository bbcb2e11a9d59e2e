"""Groups that are erased from features, through a whole chain and on to new images."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.files import read_json
from detaux_pl.artifacts.labels import load_tasks
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.inference.run import load
from detaux_pl.pipeline.chain import parse
from tests.cli.conftest import in_process
from tests.ranks import fork_ranks

Refused = Callable[[list[str]], str]
N, HEIGHT, WIDTH = 240, 24, 40


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one of four colours, the hidden factor, whose label is a small square's side."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 200, (4, 3))
    rows = [["image", "side", "colour"]]
    for k in range(N):
        side, colour = k % 2, k // 2 % 4
        pixels = np.tile(colours[colour], (HEIGHT, WIDTH, 1)) + rng.normal(0, 6, (HEIGHT, WIDTH, 3))
        left = 4 if side else WIDTH - 12
        pixels[8:16, left : left + 8] += 40
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{k:03}.png")
        rows.append([f"{k:03}.png", "left" if side else "right", str(colour)])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def config(table: Path) -> Path:
    """Settings of a chain with a small frozen network, which the arms have from the codes."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet")
    weights = table.with_name("weights.pth")
    torch.save(net.state_dict(), weights)
    net_ = {"model": "timm/test_resnet", "weights": str(weights), "size": 48, "pca": 20}
    given = {
        "dataset": {
            "class_path": "ImageTable",
            "init_args": {
                "path": str(table), "principal": "side", "image_size": 32, "fit": "stretch",
                "cache_dir": str(table.parent / "cache"),
            },
        },
        "disentangle": {
            "model": {"class_path": "PretrainedFeatures", "init_args": {**net_, "subspace_dim": 6}},
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        },
        "cluster": {
            "erase": {
                "clusterers": [
                    {"class_path": "Ward", "init_args": {"n_clusters": k}} for k in (2, 4, 6)
                ],
                "pca": 20,
                "axes": 10,
            }
        },
        "multitask": {
            "model": {"class_path": "ErasingClassifier", "init_args": {"pca": 20}},
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        },
        "baselines": ["FrozenClassifier", "NearestNeighbors"],
        "controls": ["shuffled", "colour"],
        "seeds": 1,
    }  # fmt: skip
    path = table.with_name("erase.yaml")
    path.write_text(yaml.safe_dump(given))
    return path


@pytest.fixture(
    scope="module", params=[pytest.param(use, marks=pytest.mark.slow) for use in ("erase", "leave")]
)
def run(request: pytest.FixtureRequest, config: Path) -> tuple[str, Path]:
    """A finished chain, of which the verdict is to erase or, by a demand none meets, to leave."""
    folder = config.parent / request.param
    words = ["--config", str(config), "--run_dir", str(folder)]
    margin = "0" if request.param == "erase" else "1000"
    assert run_chain([*words, "--cluster.erase.margin", margin], in_process) == 0
    return request.param, folder


def test_the_verdict_is_written_followed_and_shown(run: tuple[str, Path]):
    use, folder = run
    found = read_json(folder / "cluster" / "erasures.json")
    assert found["verdict"]["found"] == (use == "erase"), found["verdict"]["sentence"]
    assert [each["name"] for each in found["candidates"] if each["refused"] is None] == (
        found["verdict"]["chosen"]
    )
    assert len(found["candidates"]) == 4  # three clusterers, and all of them
    gains = [each["gain"] for each in found["candidates"]]
    assert gains == sorted(gains, reverse=True)
    tasks = load_tasks(folder / "cluster")
    assert {task.meta["use"] for task in tasks} == {use}
    finished = load(folder)
    head = {
        arm: finished.model(arm).heads[0].weight
        for arm in ("erasing_classifier", "frozen_classifier")
    }
    left = torch.allclose(*head.values(), rtol=1e-6)
    assert left == (use == "leave")
    page = (folder / "report" / "report.html").read_text()
    assert ("What was erased" in page) == (use == "erase")
    assert ("What might be erased" in page) == (use == "leave")
    report = read_json(folder / "report" / "report.json")
    assert report["baseline"] == "frozen_classifier"
    assert report["erasures"]["verdict"]["sentence"] in page.replace("&nbsp;", " ")


def test_groups_are_found_in_what_is_left_of_the_features_and_label_every_image(
    run: tuple[str, Path],
):
    _, folder = run
    codes = Codes.load(folder / "disentangle" / "codes", "features")
    for task in load_tasks(folder / "cluster"):
        assert np.array_equal(task.ids, codes.ids)
        assert task.labels.min() == 0
        for split in ("train", "val", "test"):
            rows = codes.rows(split)
            colour = codes.factor("colour")[rows]
            # A group holds one colour, or some of them whole: of new images too.
            told = [np.unique(task.labels[rows][colour == value]) for value in range(4)]
            if task.n_classes <= 4:
                assert all(len(groups) == 1 for groups in told), (split, told)


def test_new_images_get_class_and_group(run: tuple[str, Path], table: Path, tmp_path: Path):
    _, folder = run
    output = tmp_path / "told.csv"
    assert (
        main(["predict", str(folder), str(table), "--column", "image", "--output", str(output)])
        == 0
    )
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert len(rows) == N
    given = list(csv.DictReader(table.read_text().splitlines()))
    right = [row["class"] == other["side"] for row, other in zip(rows, given, strict=True)]
    assert np.mean(right) > 0.9
    assert {row["group"] for row in rows} <= set("012345")


def test_the_nearest_images_are_part_of_a_run_and_of_what_is_exported(
    run: tuple[str, Path], table: Path, tmp_path: Path
):
    _, folder = run
    images = sorted(str(path) for path in table.parent.glob("00*.png"))
    told = load(folder).classifier("nearest_neighbors").predict(images).probabilities["principal"]
    n_train = len(load(folder).codes.rows("train"))
    assert len(load(folder).model("nearest_neighbors").heads[0].known) == n_train
    words = ["export", str(folder), str(tmp_path / "bundle"), "--arm", "nearest_neighbors"]
    assert main([*words, "--format", "safetensors"]) == 0
    again = load(tmp_path / "bundle").predict(images).probabilities["principal"]
    np.testing.assert_allclose(again, told, atol=1e-6)


def test_a_run_is_gone_on_with_wherever_its_weights_lie(
    run: tuple[str, Path], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    use, folder = run
    copy = shutil.copy(config.with_name("weights.pth"), tmp_path / "elsewhere.pth")
    words = ["--config", str(config), "--run_dir", str(folder)]
    words += ["--cluster.erase.margin", "0" if use == "erase" else "1000"]
    words += ["--disentangle.model.weights", str(copy)]
    words += ["--disentangle.model.cache_dir", str(tmp_path / "cache")]
    assert run_chain(words, in_process) == 0
    assert capsys.readouterr().err.count("complete, skipped") == 5


@pytest.mark.slow
def test_other_weights_of_the_same_name_are_another_run(
    config: Path, tmp_path: Path, error_line: Refused
):
    file = Path(shutil.copy(config.with_name("weights.pth"), tmp_path))
    words = ["--config", str(config), "--run_dir", str(tmp_path / "run"), "--until", "disentangle"]
    words += ["--disentangle.model.weights", str(file)]
    assert run_chain(words, in_process) == 0
    state = torch.load(file, weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, file)
    said = error_line(["fit", *words])
    assert "disentangle was made with other settings: model.init_args.weights was 'sha256 " in said


def test_arms_have_the_network_of_the_codes_unless_they_name_one(config: Path):
    own = {"class_path": "FrozenClassifier", "init_args": {"model": "timm/test_vit"}}
    baselines = ["NearestNeighbors", {**own, "name": "own"}]
    words = ["--config", str(config), "--baselines", json.dumps(baselines)]
    more = ["--multitask.model.size", "64", "--disentangle.model.cache_dir", "cache"]
    arms = parse([*words, *more]).arms
    names = ("model", "weights", "size", "cache_dir")
    given = {
        arm: [configs[0]["model"]["init_args"][name] for name in names]
        for arm, configs in arms.items()
    }
    weights = str(config.with_name("weights.pth"))
    # What the main arm says is as in it in the others.
    assert given["erasing_classifier"] == ["timm/test_resnet", weights, 64, "cache"]
    assert given["nearest_neighbors"] == given["shuffled"] == given["erasing_classifier"]
    assert given["own"] == ["timm/test_vit", None, 64, None]
    other = ["--disentangle", "configs/disentangle/residual.yaml", "--cluster.erase", "null"]
    arms = parse([*words, *other]).arms
    assert arms["erasing_classifier"][0]["model"]["init_args"]["model"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cluster.erase.folds", "1"], "folds is 1: give at least 2"),
        (["--cluster.erase.margin", "-1"], "margin -1"),
        (["--cluster.select.tries", "2"], "select and erase are both given"),
        (["--disentangle", "configs/disentangle/residual.yaml"], "features of a frozen network"),
    ],
)
def test_what_does_not_go_with_it_is_refused_before_anything_runs(
    config: Path, tmp_path: Path, error_line: Refused, words: list[str], said: str
):
    folder = tmp_path / "run"
    assert said in error_line(["fit", "--config", str(config), "--run_dir", str(folder), *words])
    assert not (folder / "disentangle").exists()


@pytest.mark.slow
def test_groups_found_one_after_the_other_are_erased_together(config: Path, tmp_path: Path):
    kmeans = {"class_path": "KMeans", "init_args": {"n_clusters": 4}}
    words = ["--config", str(config), "--run_dir", str(tmp_path), "--controls", "[]"]
    words += ["--cluster.erase", "null", "--cluster.clusterer", json.dumps(kmeans)]
    words += ["--cluster.n_tasks", "2", "--cluster.further", "erase"]
    assert run_chain(words, in_process) == 0
    first, second = load_tasks(tmp_path / "cluster")
    assert [task.meta["subspace"] for task in (first, second)] == [1, 1]
    model = load(tmp_path).model("erasing_classifier")
    assert [head.out_features for head in model.heads] == [2, 4, 4]
    report = read_json(tmp_path / "report" / "report.json")
    assert report["auxiliary"]["factors"]["colour"]["ami"] == pytest.approx(1)
    (task,) = report["further_tasks"]
    assert task["ami_before"][0] < 0.5  # there is nothing else to find
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"AMI with what was found before: {task['ami_before'][0]:.2f}" in page


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_ranks_give_the_codes_clusters_verdict_and_answers_of_one(config: Path, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["--config", str(config), "--run_dir", str(one), "--cluster.erase.margin", "0"]
    assert run_chain(words, in_process) == 0
    arms = [f"multitask/{arm}/seed0" for arm in ("erasing_classifier", "nearest_neighbors")]
    for command, stage in (
        ("disentangle fit", "disentangle"),
        ("disentangle predict", "disentangle"),
        ("cluster", "cluster"),
        *(("multitask fit", arm) for arm in arms),
    ):
        own = ["--config", str(one / stage / "config.yaml"), "--run_dir", str(two)]
        if stage != "cluster":  # features are computed anew, by both
            own += ["--trainer.devices=2", "--trainer.strategy=ddp"]
            own += [f"--model.cache_dir={tmp_path / 'cache'}"]
        assert fork_ranks([*command.split(), *own]) == [0, 0]
    for name in ("code", "features"):
        alone, shared = (Codes.load(run / "disentangle/codes", name) for run in (one, two))
        assert np.array_equal(shared.ids, alone.ids)
        assert np.array_equal(shared.values, alone.values)
    assert read_json(two / "cluster/erasures.json") == read_json(one / "cluster/erasures.json")
    assert read_json(two / "cluster/erasures.json")["verdict"]["found"]
    for task, other in zip(load_tasks(two / "cluster"), load_tasks(one / "cluster"), strict=True):
        assert np.array_equal(task.labels, other.labels)
        assert task.meta == other.meta
    for arm in arms:
        alone, shared = (
            Predictions.load(run / arm / "predictions.npz", "again").of("test")
            for run in (one, two)
        )
        for name, values in alone.probabilities.items():
            np.testing.assert_allclose(shared.probabilities[name], values, atol=1e-6)
        kept = [read_json(run / arm / "test.json") for run in (one, two)]
        assert kept[1] == pytest.approx(kept[0], abs=1e-5)
