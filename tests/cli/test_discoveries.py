"""Arms of every kind in one chain, and what each of them reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.labels import load_tasks
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.inference.run import load
from detaux_pl.pipeline.stage import STAGES
from tests.cli.conftest import CONF, copy_stages, fit, in_process

RIVALS = ["--config", str(CONF / "rivals.yaml")]


def _stage(run_dir: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((run_dir / name / "stage.json").read_text())
    return found


@pytest.mark.slow
def test_every_kind_of_arm_in_one_chain(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error_line: Callable[[list[str]], str],
):
    words = [*RIVALS, "--run_dir", str(tmp_path)]
    assert run_chain(words, in_process) == 0
    run = load(tmp_path)
    arms = ["hard_parameter_sharing", "single_task", "maxl", "auxi_learn", "nddr", "cross_stitch",
            "mti_net", "pcgrad", "class_scaling-shuffled", "mean_shift", "pixels",
            "more_pixels", "two_tasks", "shuffled", "location-background"]  # fmt: skip
    assert set(run.arms) == set(arms)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert list(report["arms"]) == arms
    kinds = {arm: report["arms"][arm]["kind"] for arm in arms}
    assert kinds["maxl"] == kinds["class_scaling-shuffled"] == "baseline"
    assert kinds["pixels"] == kinds["two_tasks"] == "discovery"
    assert kinds["location-background"] == "ceiling"
    assert set(report["discoveries"]) == {
        "mean_shift", "pixels", "more_pixels", "two_tasks",
    }  # fmt: skip

    # Each reads its own labels, or none.
    reads = {arm: list(_stage(tmp_path, f"multitask/{arm}/seed0")["inputs"]) for arm in arms}
    assert reads["pcgrad"] == reads["shuffled"] == reads["class_scaling-shuffled"] == ["cluster"]
    assert reads["pixels"] == ["discoveries/pixels/cluster"]
    for arm in ("single_task", "maxl", "auxi_learn", "location-background"):
        assert reads[arm] == []
    for name in ("pixels", "more_pixels"):
        assert list(_stage(tmp_path, f"discoveries/{name}/cluster")["inputs"]) == [
            "discoveries/pixels/disentangle/codes"
        ]
    assert list(_stage(tmp_path, "discoveries/mean_shift/cluster")["inputs"]) == [
        "disentangle/codes"
    ]
    tasks = load_tasks(tmp_path / "discoveries" / "two_tasks" / "cluster")
    assert len(tasks) == 2
    assert tasks[0].labels.tolist() == run.labels.labels.tolist()
    sizes = [size for size in run.model("two_tasks").hparams["task_sizes"]]
    assert sizes == [10, tasks[0].n_classes, tasks[1].n_classes]
    pixels = np.load(
        next((tmp_path / "discoveries" / "pixels" / "disentangle" / "codes").rglob("codes.npy"))
    )
    first = run.data.images(np.arange(3)).flatten(1).numpy()
    np.testing.assert_allclose(pixels[:3, 0], first, rtol=1e-6)

    # An arm by itself: what it was trained on, or nothing.
    config = tmp_path / "multitask" / "two_tasks" / "seed0" / "config.yaml"
    alone = ["multitask", "test", "--config", str(config)]
    assert main(alone) == 0
    assert "was trained on the labels of discoveries/two_tasks" in error_line(
        [*alone, "--discovery", "mean_shift"]
    )
    assert "has no finished clusters of that name" in error_line([*alone, "--discovery", "three"])

    # A second run finds all done; clustering again leaves what reads no labels.
    capsys.readouterr()
    assert run_chain(words, in_process) == 0
    assert capsys.readouterr().err.count("skipped") == len(STAGES) - 1

    assert main(["report", "--run_dir", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(again["discoveries"]) == set(report["discoveries"])

    def stamp(name: str) -> int:
        return (tmp_path / name / "stage.json").stat().st_mtime_ns

    pixels_arm, main_arm = "multitask/pixels/seed0", "multitask/pcgrad/seed0"
    kept = {name: stamp(name) for name in ("multitask/maxl/seed0", pixels_arm, "cluster")}
    one = "discoveries/mean_shift/cluster"
    assert run_chain([*words, "--redo", one, "--until", "cluster"], in_process) == 0
    assert kept == {name: stamp(name) for name in kept}
    assert not (tmp_path / "multitask" / "mean_shift" / "seed0").exists()
    before = stamp("discoveries/pixels/cluster")
    assert (
        main(["cluster", "--config", str(tmp_path / "cluster/config.yaml"), "--redo=cluster"]) == 0
    )
    assert stamp("discoveries/pixels/cluster") == before
    assert run_chain([*words, "--redo", "cluster", "--until", "cluster"], in_process) == 0
    assert stamp("multitask/maxl/seed0") == kept["multitask/maxl/seed0"]
    assert stamp("discoveries/pixels/cluster") != before
    assert not (tmp_path / pixels_arm).exists()
    assert not (tmp_path / main_arm).exists()


def test_a_discovery_that_finds_nothing_costs_its_own_arm_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [*RIVALS, "--run_dir", str(tmp_path), "--controls", "[]"]
    words += ["--baselines", "[SingleTask, {class_path: AuxiLearn, init_args: {held_out: 0.001}}]"]
    bad = {"class_path": "HDBSCAN", "init_args": {"min_cluster_size": 60, "min_samples": 1}}
    bad_and_good = {"bad": {"cluster": {"clusterer": bad}}, "good": {"cluster": {"noise": "drop"}}}
    words += ["--discoveries", json.dumps(bad_and_good)]
    assert run_chain(words, in_process) == 2
    said = capsys.readouterr().err
    assert "no auxiliary task was found" in said
    assert "failed: discoveries/bad/cluster" in said
    assert "failed: multitask/auxi_learn/seed0" in said
    assert set(load(tmp_path).arms) == {"hard_parameter_sharing", "single_task", "good"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--discoveries", '{"a\\tb": {"cluster": {"noise": "drop"}}}'],
            "give letters that can be shown",
        ),
        (["--discoveries", '{"a": {"cluster": "kmeans.yaml"}}'], "give `disentangle`, `cluster`"),
        (["--discoveries", '{"a": {"cluster": {"run_dir": "x"}}}'], "a.cluster.run_dir is set"),
        (
            ["--discoveries", '{"a": {"disentangle": {"data": "PairDataModule"}}}'],
            "give class_path",
        ),
        (
            ["--discoveries", '{"a": {"disentangle": {"run_dir": "x"}}}'],
            "disentangle.run_dir is set",
        ),
        (["--multitask.discovery", "pixels"], "multitask.discovery is 'pixels'"),
        (["--cluster.codes", "x/codes"], "cluster.codes is 'x/codes'"),
        (["--multitask.model", "MAXL"], "MAXL learns no auxiliary labels"),
        (
            ["--baselines", '[{"class_path": "NDDR", "name": 3}]'],
            "for a baseline a name where another",
        ),
        (["--discoveries", '{"a": {"clusterer": "KMeans"}}'], "give `disentangle`, `cluster`"),
        (["--discoveries", '{"a": {}}'], "give `disentangle`, `cluster` or `refine`"),
        (
            ["--discoveries", '{"maxl": {"cluster": {"noise": "drop"}}}'],
            "two arms are named 'maxl'",
        ),
        (["--baselines", '["NDDR", "NDDR"]'], "a `name` of its own"),
        (
            ["--baselines", '[{"class_path": "NDDR", "label": "x"}]'],
            "for a baseline a name where another",
        ),
        (
            ["--baselines", '[{"class_path": "SingleTask", "auxiliary": "shuffled"}]'],
            "it learns no auxiliary labels: leave it out",
        ),
        (
            ["--baselines", '[{"class_path": "GroupDRO", "auxiliary": 3}]'],
            "auxiliary of a baseline is 3: give shuffled, a factor",
        ),
        (
            ["--baselines", '[{"class_path": "GroupDRO", "auxiliary": "place"}]'],
            "auxiliary is 'place': give discovered, shuffled or factors",
        ),
        (
            ["--refine.rounds", "1", "--nets.model", "ClassScaling"],
            "fitted anew to validation images, and nets have none",
        ),
        (["--controls", '[["location", "digit"]]'], "other than the principal one"),
        (["--controls", '[["location", "location"]]'], "each once"),
        (["--multitask.trainer.gradient_clip_val", "1.0"], "but MAXL makes several steps"),
        (["--cluster.clusterer.n_clusters", "0"], "n_clusters is 0"),
    ],
)
def test_what_an_arm_cannot_be_is_refused_before_anything_runs(
    words: list[str], message: str, tmp_path: Path
):
    with pytest.raises(UserError, match=message) as caught:
        run_chain([*RIVALS, "--run_dir", str(tmp_path), *words], in_process)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "disentangle").exists()


def test_a_weighting_is_held_against_the_tasks_of_each_arm(tmp_path: Path):
    weighting = '{"class_path": "FixedWeighting", "init_args": {"weights": [2.0, 1.0]}}'
    words = [*RIVALS, "--run_dir", str(tmp_path), "--multitask.model.weighting", weighting]
    with pytest.raises(UserError, match="has 2 weights for 3 tasks"):
        run_chain(words, in_process)
    assert not (tmp_path / "disentangle").exists()


@pytest.mark.slow
def test_tasks_one_after_the_other_in_a_whole_chain(finished_run: Path, tmp_path: Path):
    run_dir = copy_stages(finished_run, tmp_path / "run", "disentangle", "evaluate")
    kmeans = {"class_path": "KMeans", "init_args": {"n_clusters": 3}}
    further = ["--cluster.n_tasks", "2", "--cluster.further", "erase", "--cluster.subspace", "1"]
    words = [*further, "--cluster.clusterer", json.dumps(kmeans), "--seeds", "1"]
    assert fit(run_dir, *words) == 0
    run = load(run_dir)
    first, second = load_tasks(run_dir / "cluster")
    sizes = (10, first.n_classes, second.n_classes)
    assert run.model("hard_parameter_sharing").hparams["task_sizes"] == sizes
    report = json.loads((run_dir / "report" / "report.json").read_text())
    (task,) = report["further_tasks"]
    assert (task["subspace"], task["erased"]) == (1, 1)
    train = run.codes.rows("train")
    found = adjusted_mutual_info_score(first.labels[train], second.labels[train])
    assert task["ami_before"] == [pytest.approx(found)]
    assert found < 0.1
    page = (run_dir / "report" / "report.html").read_text()
    assert "from which 1 task found before was erased" in page.replace("\xa0", " ")
    kept = _stage(run_dir, "cluster")["settings"]
    assert isinstance(kept, dict)
    assert kept["further"] == "erase"
    assert "further" not in _stage(finished_run, "cluster")["settings"], "as of runs before"


def test_tasks_one_after_the_other_leave_no_choice(error_line: Callable[[list[str]], str]):
    words = ["fit", "--config", str(CONF / "chain.yaml"), "--cluster.further", "erase"]
    said = error_line([*words, "--cluster.select.tries", "2"])
    assert "further is erase, which finds tasks by the rule" in said
    assert "select chooses among candidates: leave one out" in said
