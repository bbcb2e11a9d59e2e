"""`detaux ladder` on a few scenes: tables, page and sentences, gone on with, and refusals."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.files import read_json
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.cli.ladder import run as run_ladder
from detaux_pl.pipeline.ladder import RUNGS as RUNGS_THERE_ARE
from detaux_pl.pipeline.ladder import plan_ladder
from detaux_pl.settings.keys import trainable_settings
from tests.cli.conftest import CONF, copy_stages, in_process

Refused = Callable[[list[str]], str]
RUNGS = ("majority", "knn", "probe", "erasure", "network", "task")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a chain of frozen features and of a small network."""
    folder = tmp_path_factory.mktemp("ladder")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "weights.pth")
    net = {"model": "timm/test_resnet", "weights": str(folder / "weights.pth"), "size": 32}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    kept = {"pca": 20, "cache_dir": str(folder / "cache")}
    given = {
        "run_dir": str(folder / "run"),
        "dataset": {
            "class_path": "DigitScenes",
            "init_args": {"n_train": 300, "n_val": 60, "n_test": 90, "n_locations": 4},
        },
        "disentangle": {
            "model": {
                "class_path": "PretrainedFeatures", "init_args": {**net, **kept, "subspace_dim": 6},
            },
            "trainer": trainer,
        },
        "cluster": {
            "erase": {
                "clusterers": [{"class_path": "Ward", "init_args": {"n_clusters": 4}}],
                "pca": 20, "axes": 10, "repeats": 2, "confirmations": 1,
            }
        },
        "multitask": {
            "model": {
                "class_path": "HardParameterSharing",
                "init_args": {"backbone": "small_convnet", "hidden": 8},
            },
            "trainer": {**trainer, "max_epochs": 2},
        },
    }  # fmt: skip
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@pytest.fixture(scope="module")
def ladder(config: Path) -> Path:
    """A finished ladder at two numbers of labels."""
    folder = config.with_name("finished")
    words = ["--config", str(config), "--run_dir", str(folder), "--labels", "10,4", "--seeds", "2"]
    words += ["--rungs", ",".join(RUNGS), "--ensemble", "2", "--output", f"{folder}.md"]
    assert run_ladder(words, in_process) == 0
    return folder


@pytest.mark.slow
def test_every_rung_is_measured_on_nested_labels_and_one_test_set(ladder: Path):
    content = read_json(ladder / "ladder.json")
    assert [each["labels"] for each in content["budgets"]] == [4, 10]
    assert content["reference"] == "probe"
    tests = []
    for seed in range(2):
        kept = {}
        for labels in (4, 10):
            run = ladder / f"labels{labels}" / f"seed{seed}"
            codes = Codes.load(run / "disentangle" / "codes", "code")
            kept[labels] = codes.ids[codes.rows("train")]
            counts = np.bincount(codes.factor("digit")[codes.rows("train")])
            assert np.array_equal(counts, [labels] * 10)
            assert len(codes.rows("train")) + len(codes.rows("unlabelled")) == 300
            tests.append(codes.ids[codes.rows("test")])
        assert set(kept[4]) < set(kept[10])
    assert all(np.array_equal(ids, tests[0]) for ids in tests)
    for budget in content["budgets"]:
        assert budget["n_test"] == 90
        assert set(budget["rungs"]) == {*RUNGS, "network_ensemble", "task_ensemble"}
        for rung in budget["rungs"].values():
            assert set(rung["scores"]) == {"0", "1"}


@pytest.mark.slow
def test_scores_are_those_of_the_predictions(ladder: Path):
    budget = read_json(ladder / "ladder.json")["budgets"][0]
    for seed in range(2):
        folder = ladder / "labels4" / f"seed{seed}" / "multitask" / "network"
        told = [
            Predictions.load(folder / f"seed{k}" / "predictions.npz", "again").of("test")
            for k in (2 * seed, 2 * seed + 1)
        ]
        truth = told[0].target("principal")
        right = [(p.probabilities["principal"].argmax(1) == truth).mean() for p in told]
        both = sum(p.probabilities["principal"] for p in told).argmax(1)  # type: ignore[union-attr]
        scores = {name: budget["rungs"][name]["scores"][str(seed)] for name in budget["rungs"]}
        assert scores["network"] == pytest.approx(np.mean(right), abs=1e-6)
        assert scores["network_ensemble"] == pytest.approx((both == truth).mean())
        counts = np.bincount(truth) / len(truth)
        assert scores["majority"] == pytest.approx(counts[0])  # of even classes the first


@pytest.mark.slow
def test_what_is_done_is_not_done_again(
    ladder: Path, config: Path, capsys: pytest.CaptureFixture[str]
):
    before = {path: path.stat().st_mtime_ns for path in ladder.rglob("test.json")}
    assert len(before) == 2 * 2 * 2 * len(RUNGS)
    words = ["--config", str(config), "--run_dir", str(ladder), "--labels", "4", "--seeds", "1"]
    words += ["--rungs", ",".join(RUNGS), "--ensemble", "2", "--format", "csv"]
    assert run_ladder(words, in_process) == 0
    said = capsys.readouterr()
    assert said.err.count("complete, skipped") == 3
    assert {path: path.stat().st_mtime_ns for path in ladder.rglob("test.json")} == before
    rows = list(csv.DictReader(said.out.splitlines()))
    assert {row["rung"] for row in rows} == {*RUNGS, "network_ensemble", "task_ensemble"}
    assert "labels a class" in Path(f"{ladder}.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rungs", [["probe"], ["knn", "network"], ["network_strong", "task_light"]])
def test_a_rung_is_the_same_whatever_others_are_asked_for(config: Path, rungs: list[str]):
    words = ["--config", str(config), "--multitask.data.augment", "standard"]
    words += ["--multitask.model.lr", "0.01", "--multitask.trainer.max_epochs", "7"]
    words += ["--multitask.trainer.check_val_every_n_epoch", "3"]
    ladder = plan_ladder(words, [*RUNGS_THERE_ARE], [4], 1, 0, 1, None, None)
    every = ladder.chain(4, 0, ladder.rungs).arms
    assert {*every} == {*RUNGS_THERE_ARE}
    some = ladder.chain(4, 0, rungs).arms
    assert {*some} == {*rungs}
    assert all(trainable_settings(some[k][0]) == trainable_settings(every[k][0]) for k in rungs)
    augment = {name: arm[0]["data"]["init_args"]["augment"] for name, arm in every.items()}
    assert (augment["network"], augment["task_light"]) == ("standard", "light")
    epochs = {name: arm[0]["trainer"]["max_epochs"] for name, arm in every.items()}
    assert {name for name in epochs if epochs[name] == 1} == {"majority", "knn", "probe", "erasure"}
    assert {arm[0]["model"]["init_args"].get("lr", 0.01) for arm in every.values()} == {0.01}


@pytest.mark.slow
def test_the_best_network_by_validation_learns_the_task_too(ladder: Path, config: Path):
    rungs = ["network", "network_light"]
    words = ["--config", str(config), "--run_dir", str(ladder), "--labels", "4", "--seeds", "2"]
    words += ["--rungs", ",".join(rungs), "--ensemble", "2", "--with_task", "1"]
    assert run_ladder(words, in_process) == 0
    right: dict[str, list[float]] = {name: [] for name in rungs}
    for name in rungs:
        for path in ladder.glob(f"labels4/seed*/multitask/{name}/seed*/predictions.npz"):
            told = Predictions.load(path, "again").of("val")
            truth = told.target("principal")
            right[name].append(float((told.probabilities["principal"].argmax(1) == truth).mean()))
    assert [len(each) for each in right.values()] == [4, 4]
    best = max(rungs, key=lambda name: np.mean(right[name]))
    budget = read_json(ladder / "ladder.json")["budgets"][0]
    partner = {"network": "task", "network_light": "task_light"}[best]
    asked = {*rungs, partner}
    assert set(budget["rungs"]) == asked | {f"{name}_ensemble" for name in asked}


@pytest.mark.slow
def test_kill_9_then_the_rest_alone_and_the_same_scores(ladder: Path, config: Path, tmp_path: Path):
    folder = tmp_path / "killed"
    words = ["--config", str(config), "--run_dir", str(folder), "--labels", "4", "--seeds", "2"]
    words += ["--rungs", "knn,probe,network", "--ensemble", "2"]
    command = [sys.executable, "-m", "detaux_pl", "ladder", *words, "--jobs", "1"]
    process = subprocess.Popen(command, start_new_session=True)
    begun = folder / "labels4" / "seed0" / "multitask" / "network"
    deadline = time.monotonic() + 600
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # with all that it started
    assert process.wait() == -signal.SIGKILL
    assert begun.exists()
    assert not (folder / "ladder.json").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    done = [path for path in folder.rglob("stage.json") if read_json(path)["status"] == "complete"]
    assert done
    assert run_ladder(words, in_process) == 0
    # What was measured undisturbed, told of these rungs: other tests asked it for others.
    assert run_ladder([*words, "--run_dir", str(ladder)], in_process) == 0
    for path in (file for stage in done for file in stage.parent.glob("*.npz")):
        assert path.stat().st_mtime_ns == before[path]
    own, undisturbed = (
        read_json(each / "ladder.json")["budgets"][0]["rungs"] for each in (folder, ladder)
    )
    assert {*own} == {"knn", "probe", "network", "network_ensemble"}
    # None of them learns or erases groups, so that none were looked for.
    stages = {path.name for path in (folder / "labels4" / "seed0").iterdir() if path.is_dir()}
    assert stages == {"disentangle", "multitask"}
    for name, rung in own.items():
        assert rung["scores"] == undisturbed[name]["scores"], name


@pytest.mark.slow
def test_where_no_task_is_found_the_other_rungs_are_measured(finished_run: Path, tmp_path: Path):
    copy_stages(finished_run, tmp_path / "all" / "seed0", "disentangle")
    words = ["--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path), "--seeds", "1"]
    words += ["--rungs", "network,task", "--cluster.select.tries", "2", "--jobs", "1"]
    words += ["--cluster.select.confirmations", "1", "--cluster.select.halves", "2"]
    words += ["--nets.epochs", "1", "--nets.folds", "2", "--cluster.select.min_learnability", "1"]
    assert run_ladder(words, in_process) == 0
    content = read_json(tmp_path / "ladder.json")
    assert [*content["budgets"][0]["rungs"]] == ["network"]
    assert "task has 0 of 1 measurements: no task" in content["sentences"][-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rungs", "prob"], "--rungs names 'prob': did you mean 'probe'?"),
        (["--rungs", "probe,probe"], "give each rung once"),
        (["--labels", "5,many"], "give numbers of labels of each class, at least 2, or all"),
        (["--labels", "5,5"], "give each number once"),
        pytest.param(
            ["--labels", "5,1000"], "asks for 1000 labels of each class", marks=pytest.mark.slow
        ),
        (["--with_task", "-1"], "--with_task is -1: give 0 for none"),
        (["--seeds", "0"], "--seeds is 0: give at least 1"),
        (
            ["--rungs", "knn,probe", "--against", "prob"],
            "--against is 'prob': did you mean 'probe'?",
        ),
        (["--output", "table.pdf"], "no table is written as .pdf"),
        (
            ["--rungs", "network", "--multitask.model", "FrozenClassifier"],
            "the rung 'network' trains a network, and multitask of the config is FrozenClassifier",
        ),
        pytest.param(
            ["--disentangle.model.weights", "none.pth"], "none.pth", marks=pytest.mark.slow
        ),
        (["--no_such", "1"], "no_such"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    config: Path, tmp_path: Path, error_line: Refused, words: list[str], said: str
):
    folder = tmp_path / "ladder"
    line = error_line(["ladder", "--config", str(config), "--run_dir", str(folder), *words])
    assert said in line
    assert not folder.exists()
