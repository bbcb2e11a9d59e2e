"""`detaux refine` and the selection of a task, through the chain."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from detaux_pl.artifacts.files import read_json, read_yaml
from detaux_pl.artifacts.labels import load_tasks
from detaux_pl.cli.main import main
from detaux_pl.inference.run import load
from detaux_pl.multitask.cross_fit import CrossFit
from tests.cli.conftest import children_of, copy_stages, fit
from tests.ranks import fork_ranks

REFINE = ["--refine.rounds", "2", "--nets.epochs", "6", "--jobs", "1"]


def _assert_same_labels(run_dir: Path, other: Path) -> None:
    tasks = [load_tasks(folder / "refine") for folder in (run_dir, other)]
    for one, two in zip(*tasks, strict=True):
        np.testing.assert_array_equal(one.labels, two.labels)


@pytest.fixture(scope="module")
def refined(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature run up to its refined labels; what came before is that of the finished one."""
    run_dir = tmp_path_factory.mktemp("refined") / "run"
    copy_stages(finished_run, run_dir, "disentangle", "evaluate", "cluster")
    assert fit(run_dir, *REFINE, "--until", "refine") == 0
    return run_dir


def test_every_sample_has_a_label_and_the_change_is_told(refined: Path):
    (before,), (after,) = (load_tasks(refined / stage) for stage in ("cluster", "refine"))
    assert after.ids.tolist() == before.ids.tolist()
    np.testing.assert_array_equal(after.is_noise, before.is_noise)
    train = after.labels[after.splits == 0]
    assert np.unique(train).tolist() == list(range(after.n_classes))
    assert set(after.labels) <= set(range(after.n_classes))
    assert ((after.strength > 0) & (after.strength <= 1)).all()
    told = after.meta["refinement"]
    assert len(told["rounds"]) == 2
    noise = before.is_noise[before.splits == 0].mean()
    assert told["rounds"][0]["labelled"] == pytest.approx(noise)
    assert after.meta["subspace"] == before.meta["subspace"]
    assert load(refined).labels.meta["refinement"] == told
    assert not (refined / "refine" / "nets").exists()


@pytest.mark.slow
def test_a_lost_stage_is_made_again_alike(refined: Path, tmp_path: Path):
    again = Path(shutil.copytree(refined, tmp_path / "run"))
    shutil.rmtree(again / "refine")
    assert fit(again, *REFINE, "--until", "refine") == 0
    _assert_same_labels(again, refined)


def test_the_arms_learn_the_refined_labels(refined: Path, tmp_path: Path):
    run_dir = Path(shutil.copytree(refined, tmp_path / "run"))
    other = ["--discoveries", '{"as_found": {"refine": {"rounds": 0}}}']
    short = ["--seeds", "1", "--multitask.trainer.max_epochs", "1"]
    assert fit(run_dir, *REFINE, *short, *other) == 0
    arms = run_dir / "multitask"
    for arm, upstream in (
        ("hard_parameter_sharing", "refine"), ("shuffled", "refine"),
        ("as_found", "discoveries/as_found/cluster"),
    ):  # fmt: skip
        assert list(read_json(arms / arm / "seed0" / "stage.json")["upstream"]) == [upstream]
    report = read_json(run_dir / "report" / "report.json")
    assert report["auxiliary"]["refinement"]["folds"] == 4
    assert "refinement" not in report["discoveries"]["as_found"][0]
    assert "Refined by nets" in (run_dir / "report" / "report.html").read_text()
    # Without refinement nothing is left of it: the arms must be trained anew.
    assert fit(run_dir, *short, "--redo", "multitask") == 0
    assert not (run_dir / "refine").exists()
    assert "refinement" not in read_json(run_dir / "report" / "report.json")["auxiliary"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--refine.rounds", "4"], "less than nets.folds, which is 4"),
        (["--refine.rounds", "-1"], "give 0 for none"),
        (["--refine.rounds", "1", "--nets.folds", "1"], "nets.folds is 1"),
        (["--refine.rounds", "1", "--nets.epochs", "0"], "give at least 2 and 1"),
        (["--refine.rounds", "1", "--nets.model", "SingleTask"], "learns no auxiliary labels"),
        (["--refine.jobs", "2"], "set --jobs"),
        (["--refine.rounds", "1", "--multitask.trainer.max_epochs", "-1"], "give nets.epochs"),
        (["--cluster.select.tries", "1", "--cluster.n_tasks", "2"], "try at least as many"),
        (
            [
                "--refine.rounds",
                "1",
                "--multitask.model.weighting",
                '{"class_path": "FixedWeighting", "init_args": {"weights": [1, 1, 1]}}',
            ],
            "FixedWeighting has 3 weights for 2 tasks",
        ),
        (["--restarts", "0"], "at least once"),
        (["--restarts", "2"], "nothing chooses among them"),
        (["--cluster.select.tries", "0"], "give at least 1 of each"),
        (["--cluster.select.max_ami", "1.5"], "give a number from 0 to 1"),
        (["--discoveries", '{"restart1": {"cluster": {}}}'], "as restarts are"),
        (["--discoveries", '{"own": {"refine": {"seed": 1}}}'], "leave it out"),
    ],
)
def test_bad_settings(tmp_path: Path, words: list[str], message: str, error_line):
    conf = str(Path(__file__).parents[1] / "conf" / "chain.yaml")
    line = error_line(["fit", "--config", conf, "--run_dir", str(tmp_path / "run"), *words])
    assert message in line
    assert not (tmp_path / "run" / "disentangle").exists()


@pytest.mark.parametrize("command", ["refine", "cluster"])
def test_alone_the_stage_needs_nets(command: str, run_copy: Path, error_line):
    words = ["--select.tries", "1", "--redo", "cluster"] if command == "cluster" else []
    line = error_line([command, "--run_dir", str(run_copy), *words])
    assert "config.yaml" in line
    assert load_tasks(run_copy / "cluster")  # nothing is lost


def test_alone_the_stage_needs_whole_nets(refined: Path, error_line):
    words = ["refine", "--run_dir", str(refined), "--rounds", "1", "--nets", '{"folds": 4}']
    assert "nets lack data, model, single, trainer" in error_line(words)


def test_nothing_is_removed_before_what_is_upstream_is_known_to_be_there(
    refined: Path, tmp_path: Path, error_line
):
    run_dir = Path(shutil.copytree(refined, tmp_path / "run"))
    (run_dir / "cluster" / "stage.json").unlink()
    config = str(run_dir / "refine" / "config.yaml")
    words = ["refine", "--config", config, "--run_dir", str(run_dir), "--redo", "refine"]
    assert "cluster is not complete" in error_line(words)
    assert load_tasks(run_dir / "refine")


def test_refined_labels_are_not_removed_unasked(refined: Path, tmp_path: Path, error_line):
    run_dir = Path(shutil.copytree(refined, tmp_path / "run"))
    conf = str(Path(__file__).parents[1] / "conf" / "chain.yaml")
    words = ["fit", "--config", conf, "--run_dir", str(run_dir), "--until", "cluster"]
    for redo in ([], ["--redo", "evaluate"]):  # which has nothing to do with it
        line = error_line([*words, *redo])
        assert "holds what `refine` made, which is not asked for any more" in line
        assert load_tasks(run_dir / "refine")


def test_labels_refined_from_other_clusters_are_not_used(refined: Path, tmp_path: Path, error_line):
    run_dir = Path(shutil.copytree(refined, tmp_path / "run"))
    words = ["--config", str(run_dir / "cluster" / "config.yaml"), "--run_dir", str(run_dir)]
    words += ["--clusterer", "KMeans", "--clusterer.n_clusters", "3", "--redo", "cluster"]
    assert main(["cluster", *words]) == 0
    config = read_yaml(refined / "refine" / "config.yaml")["nets"]
    arm = {"model": config["model"], "data": config["data"], "run_dir": str(run_dir)}
    path = tmp_path / "arm.yaml"
    path.write_text(json.dumps({**arm, "refined": True}))
    line = error_line(["multitask", "fit", "--config", str(path), "--trainer.max_epochs", "1"])
    assert "was made from another result of `cluster`" in line


def test_folds_too_small_for_a_batch(refined: Path, tmp_path: Path, error_line):
    run_dir = Path(shutil.copytree(refined, tmp_path / "run"))
    shutil.rmtree(run_dir / "refine")
    path = tmp_path / "refine.yaml"
    config = read_yaml(refined / "refine" / "config.yaml")
    config["nets"]["data"]["init_args"]["batch_size"] = 1000
    path.write_text(json.dumps({**config, "run_dir": str(run_dir)}))
    assert "fewer than one batch of 1000" in error_line(["refine", "--config", str(path)])


def test_alone_the_stage_takes_no_more_rounds_than_folds_allow(refined: Path, error_line):
    words = ["--config", str(refined / "refine" / "config.yaml"), "--redo", "refine"]
    assert "refine.rounds is 4" in error_line(["refine", *words, "--rounds", "4"])
    assert load_tasks(refined / "refine")


def test_a_seed_of_a_stage_is_not_overruled_in_silence(tmp_path: Path, error_line):
    conf = read_yaml(Path(__file__).parents[1] / "conf" / "chain.yaml")
    for stage in ("cluster", "refine"):
        path = tmp_path / f"{stage}.yaml"
        path.write_text(json.dumps({**conf, stage: {**conf.get(stage, {}), "seed": 3}}))
        line = error_line(["fit", "--config", str(path), "--run_dir", str(tmp_path / "run")])
        assert f"{stage}.seed is 3, but the chain's seed is 0" in line


SELECT = [
    "--cluster.select.clusterers", '[{"class_path": "KMeans", "init_args": {"n_clusters": 4}}]',
    "--cluster.select.tries", "2", "--cluster.select.confirmations", "1",
    "--cluster.select.halves", "2", "--nets.epochs", "1", "--nets.folds", "2", "--jobs", "1",
]  # fmt: skip


def test_a_run_without_a_task_ends_so(tmp_path: Path, finished_run: Path, capsys):
    run_dir = copy_stages(finished_run, tmp_path / "run", "disentangle", "evaluate")
    words = [*SELECT, "--cluster.select.min_learnability", "1"]
    for _ in range(2):  # what is finished tells the same
        assert fit(run_dir, *words) == 4
        assert "No task worth training on was found" in capsys.readouterr().err.replace("\n", " ")
    assert not (run_dir / "multitask").exists()
    found = read_json(run_dir / "cluster" / "candidates.json")
    assert not found["verdict"]["found"]
    free = [each for each in found["candidates"] if each["scope"] == "free"]
    assert len(free) == 6
    beside = [each for each in found["candidates"] if each["scope"] == "principal"]
    assert [each["subspace"] for each in beside] == [0, 0]  # looked at for shortcuts alone
    assert all(each["refused"] and each["gain"] is None for each in beside)
    relations = read_json(run_dir / "cluster" / "shortcuts.json")["relations"]
    assert {each["name"]: each["kind"] for each in relations} == {
        each["name"]: each["relation"] for each in found["candidates"] if each["relation"]
    }
    tried = [each for each in found["candidates"] if each["gain"] is not None]
    assert 1 <= len(tried) <= 2
    assert all("cannot tell it" in each["refused"] for each in tried)
    page = (run_dir / "report" / "report.html").read_text()
    assert "What was tried" in page
    assert "KMeans 4 · subspace 1" in page
    assert "What goes with digit" in page
    alone = ["cluster", "--config", str(run_dir / "cluster" / "config.yaml")]
    assert main(alone) == 4
    assert main([*alone, "--select.uses", "true"]) == 2
    assert "nets does not say how groups are balanced" in capsys.readouterr().err


@pytest.mark.slow
def test_what_groupings_are_good_for_is_told(tmp_path: Path, finished_run: Path, capsys):
    run_dir = copy_stages(finished_run, tmp_path / "run", "disentangle", "evaluate")
    words = [*SELECT, "--cluster.select.uses", "true"]
    words += ["--cluster.select.min_learnability", "0", "--nets.epochs", "6"]
    assert fit(run_dir, *words, "--until", "cluster") in (0, 4)
    found = read_json(run_dir / "cluster" / "candidates.json")
    names = [each["name"] for each in found["candidates"]]
    said = capsys.readouterr().err.replace("\n", " ")
    assert 1 <= len(found["uses"]) <= 2
    for told in found["uses"]:
        assert told["name"] in names
        assert list(told["uses"]) == ["leave", "learn", "balance"]
        assert told["use"] in told["uses"]
        assert told["sentence"] in found["verdict"]["sentence"]
        assert f"{told['name']} is best" in said


def test_arms_that_were_trained_are_in_nobodys_way(run_copy: Path):
    assert load(run_copy).arms
    words = [*SELECT, "--cluster.select.min_learnability", "1", "--redo", "cluster"]
    assert fit(run_copy, *words) == 4
    assert load(run_copy).arms  # those that need no labels
    assert "What was tried" in (run_copy / "report" / "report.html").read_text()


@pytest.mark.slow
def test_a_further_discovery_that_finds_nothing_leaves_the_others_alone(tmp_path: Path, run_copy):
    nothing = {"select": {"tries": 1, "halves": 1, "min_learnability": 1}}
    words = ["--discoveries", json.dumps({"nothing": {"cluster": nothing}}), "--seeds", "1"]
    words += ["--refine.rounds", "1", "--redo", "multitask"]
    assert fit(run_copy, *SELECT[-6:], *words) == 4
    assert (run_copy / "refine" / "labels.npz").is_file()
    assert not (run_copy / "discoveries" / "nothing" / "refine").exists()
    assert set(load(run_copy).arms) == {"hard_parameter_sharing", "single_task", "shuffled"}
    assert read_json(run_copy / "report" / "report.json")["arms"]


@pytest.mark.slow
def test_the_codes_of_restarts_are_all_clustered(tmp_path: Path, finished_run: Path, monkeypatch):
    from detaux_pl.cluster import candidates

    monkeypatch.setattr(candidates, "SURE", 1.1)  # any gain will do, or none
    monkeypatch.setattr(candidates, "WORTH", -1.0)
    monkeypatch.setattr(CrossFit, "learnability", lambda fit: 1.0)
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run / "disentangle", run_dir / "disentangle")
    words = [*SELECT, "--restarts", "2", "--seeds", "1"]
    assert fit(run_dir, *words, "--evaluate.metrics", "[]") == 0
    found = read_json(run_dir / "cluster" / "candidates.json")
    stages = {each["codes"] for each in found["candidates"]}
    assert stages == {"disentangle/codes", "discoveries/restart1/disentangle/codes"}
    first, second = (
        read_json(run_dir / folder / "stage.json")["settings"]
        for folder in ("disentangle", "discoveries/restart1/disentangle")
    )
    assert second["seed"] - first["seed"] == 1000
    assert {**first, "seed": 0, "data": 0} == {**second, "seed": 0, "data": 0}
    (chosen,) = found["verdict"]["chosen"]
    (of_chosen,) = (each for each in found["candidates"] if each["name"] == chosen)
    assert of_chosen["restarts"] is not None
    gains = [each["gain"] for each in found["candidates"] if each["gain"] is not None]
    assert of_chosen["gain"] == max(gains)
    assert load(run_dir).labels.meta["codes"] == of_chosen["codes"]
    report = read_json(run_dir / "report" / "report.json")
    assert report["candidates"]["verdict"]["chosen"] == [chosen]


def _words(stage: str, run_dir: Path, *words: str) -> list[str]:
    config = str(run_dir / stage / "config.yaml")
    return [stage, "--config", config, "--run_dir", str(run_dir), *words]


def _refine(run_dir: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "detaux_pl", *_words("refine", run_dir, *words)]
    return subprocess.Popen(command)


def _wait_for_nets(run_dir: Path) -> None:
    """Wait until one net has its file, and the next one is at work."""
    deadline = time.monotonic() + 120
    while not list((run_dir / "refine" / "nets").glob("*/tasks/round0-*.npz")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)


def _begun_anew(refined: Path, run_dir: Path) -> None:
    shutil.copytree(refined, run_dir)
    for path in (run_dir / "refine").iterdir():
        if path.name != "config.yaml":
            path.unlink()


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_find_the_labels_of_one(refined: Path, tmp_path: Path):
    run_dir = tmp_path / "run"
    _begun_anew(refined, run_dir)
    assert fork_ranks(_words("refine", run_dir)) == [0, 0]
    _assert_same_labels(run_dir, refined)


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_judge_as_one(finished_run: Path, tmp_path: Path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished_run / "disentangle", run_dir / "disentangle")
    words = [*SELECT, "--nets.epochs", "6", "--cluster.select.min_learnability", "0"]
    words += ["--evaluate.metrics", "[]", "--until", "cluster"]
    assert fit(run_dir, *words) in (0, 4)
    found = read_json(run_dir / "cluster" / "candidates.json")
    assert found["verdict"]["chosen"]
    for path in (run_dir / "cluster").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "config.yaml":
            path.unlink()
    assert set(fork_ranks(_words("cluster", run_dir))) <= {0, 4}
    assert read_json(run_dir / "cluster" / "candidates.json") == found


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_workers_and_the_stage_goes_on_later(
    refined: Path, tmp_path: Path, number: int, code: int
):
    run_dir = tmp_path / "run"
    _begun_anew(refined, run_dir)
    first = _refine(run_dir, "--jobs", "2")
    _wait_for_nets(run_dir)
    workers = children_of(first.pid)
    assert len(workers) == 2
    first.send_signal(number)
    assert first.wait(timeout=60) == code
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert _refine(run_dir, "--jobs", "2").wait(timeout=240) == 0
    _assert_same_labels(run_dir, refined)


@pytest.mark.slow
def test_a_killed_worker_ends_the_others_at_once(refined: Path, tmp_path: Path):
    run_dir = tmp_path / "run"
    _begun_anew(refined, run_dir)
    first = _refine(run_dir, "--jobs", "2")
    _wait_for_nets(run_dir)
    killed, other = children_of(first.pid)
    started = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    while Path(f"/proc/{other}").exists():
        time.sleep(0.02)
    assert time.monotonic() - started < 5
    assert first.wait(timeout=60) == 1
    assert _refine(run_dir, "--jobs", "2").wait(timeout=240) == 0
    _assert_same_labels(run_dir, refined)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_kill_9_in_a_fold_then_the_same_labels(refined: Path, tmp_path: Path, jobs: str):
    run_dir = tmp_path / "run"
    _begun_anew(refined, run_dir)
    first = _refine(run_dir, "--jobs", jobs)
    _wait_for_nets(run_dir)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    made = set((run_dir / "refine" / "nets").glob("*/tasks/round*.npz"))
    assert 1 <= len(made) < 10
    times = {path: path.stat().st_mtime_ns for path in made}
    time.sleep(3)  # children end soon after; until then the folder may be locked
    again = _refine(run_dir, "--jobs", jobs)
    while again.poll() is None:
        kept = {path: path.stat().st_mtime_ns for path in made if path.exists()}
        assert kept.items() <= times.items()
        time.sleep(0.05)
    assert again.returncode == 0
    _assert_same_labels(run_dir, refined)
