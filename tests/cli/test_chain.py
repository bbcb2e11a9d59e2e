"""The chain through its own door: run, rerun, change, tamper, redo, resume."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import detaux_pl
from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.artifacts.lock import run_lock
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.data.modules import FactorDataModule
from detaux_pl.disentangle.residual import ResidualAutoencoder
from detaux_pl.pipeline.chain import parse
from detaux_pl.pipeline.stage import STAGES
from detaux_pl.training.records import merge_records
from tests.cli.conftest import CONF, copy_stages, fit, in_process

ARMS = ("hard_parameter_sharing", "single_task", "shuffled")


def test_a_run_leaves_every_artifact(finished_run: Path):
    report = json.loads((finished_run / "report" / "report.json").read_text())
    assert report["principal"] == "digit"
    assert report["auxiliary"]["n_clusters"] >= 2
    assert set(report["auxiliary"]["factors"]) >= {"background", "location"}
    assert list(report["arms"]) == list(ARMS)
    for arm in ARMS:
        assert len(report["arms"][arm]["accuracies"]) == 2
        for seed in (0, 1):
            folder = finished_run / "multitask" / arm / f"seed{seed}"
            tested = json.loads((folder / "test.json").read_text())
            assert tested["test/accuracy/principal"] == pytest.approx(
                report["arms"][arm]["accuracies"][seed]
            )
    assert {"disentangle", "evaluate", "cluster", "multitask"} <= set(report["seconds"])


def test_codes_hold_every_sample_once_and_labels_follow_their_ids(finished_run: Path):
    codes = Codes.load(finished_run / "disentangle" / "codes")
    labels = AuxiliaryLabels.load(finished_run / "cluster")
    assert codes.ids.tolist() == list(range(256 + 64 + 64))
    assert np.bincount(codes.splits).tolist() == [256, 64, 64]
    assert labels.ids.tolist() == codes.ids.tolist()


def test_both_stages_see_the_same_noisy_training_images(finished_run: Path):
    from detaux_pl.settings.build import build

    seen = []
    for stage in ("disentangle", "multitask/single_task/seed1"):
        config = yaml.safe_load((finished_run / stage / "config.yaml").read_text())
        data = build(FactorDataModule, config["data"])
        data.setup("fit")
        images, rows = [], []
        for batch in data.train_dataloader():
            batch = data.on_after_batch_transfer(batch, 0)
            images.append(batch.images.flatten(0, -4))
            rows.append(batch.rows.flatten())
        row, first = np.unique(torch.cat(rows).numpy(), return_index=True)
        seen.append((row, torch.cat(images)[torch.from_numpy(first)]))
    assert seen[0][0].tolist() == seen[1][0].tolist() == list(range(256))
    assert torch.equal(seen[0][1], seen[1][1])


def test_metrics_are_recorded_once_per_epoch(finished_run: Path):
    rows = (finished_run / "disentangle" / "metrics.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,step,")
    epochs = [int(row.split(",")[0]) for row in rows[1:]]
    assert sorted(set(epochs)) == [0, 1, 2, 3]
    assert not (finished_run / "disentangle" / "logs").exists()


def test_checkpoints_hold_no_pickled_objects(finished_run: Path):
    paths = sorted(finished_run.rglob("*.ckpt"))
    assert len(paths) == 1 + 4  # the control keeps none
    for path in paths:
        assert "state_dict" in torch.load(path, weights_only=True)


def test_load_gives_the_trained_modules(finished_run: Path):
    run = detaux_pl.load(finished_run)
    assert run.arms == {arm: [0, 1] for arm in ARMS}
    assert isinstance(run.disentangler, ResidualAutoencoder)
    rows = np.array([3, 200, 300])
    with torch.no_grad():
        again = run.disentangler.encode(run.data.images(rows)).numpy()
    np.testing.assert_allclose(again, run.codes.values[rows], rtol=1e-4, atol=1e-5)
    test = run.data.dataset.rows("test")
    with torch.no_grad():
        logits = run.model("single_task", 1)(run.data.images(test))[0]
    accuracy = (logits.argmax(1).numpy() == run.data.dataset.labels[test]).mean()
    folder = finished_run / "multitask" / "single_task" / "seed1"
    expected = json.loads((folder / "test.json").read_text())["test/accuracy/principal"]
    assert accuracy == pytest.approx(expected)
    with pytest.raises(ArtifactError, match="no finished arm 'foo'"):
        run.model("foo")
    with pytest.raises(ArtifactError, match="no run folder"):
        detaux_pl.load(finished_run / "report")


def test_a_second_run_skips_every_stage(run_copy: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in run_copy.rglob("*.ckpt")}
    assert fit(run_copy, "--run_dir", str(run_copy)) == 0
    assert capsys.readouterr().err.count("skipped") == len(STAGES) - 1  # not refine
    assert {path: path.stat().st_mtime_ns for path in run_copy.rglob("*.ckpt")} == before


def test_a_run_folder_remembers_its_config(run_copy: Path, capsys: pytest.CaptureFixture[str]):
    assert run_chain(["--run_dir", str(run_copy)]) == 0
    assert capsys.readouterr().err.count("skipped") == len(STAGES) - 1  # not refine


@pytest.mark.parametrize(
    ("option", "stage", "what"),
    [
        ("--disentangle.model.lr=0.5", "disentangle", "model.init_args.lr was 0.002, is 0.5"),
        ("--seed=7", "disentangle", "data.init_args.seed was 0, is 7"),
        ("--noise.amount=0.2", "disentangle", "noise.amount was 0.05, is 0.2"),
        ("--cluster.noise=drop", "cluster", "noise was 'own_class', is 'drop'"),
        ("--multitask.trainer.max_epochs=3", "multitask", "max_epochs was 2, is 3"),
    ],
)
def test_a_changed_setting_is_refused_with_both_ways_out(
    run_copy: Path, option: str, stage: str, what: str
):
    with pytest.raises(UserError) as caught:
        fit(run_copy, option)
    message = str(caught.value)
    assert what in message
    assert f"--redo {stage}" in message
    assert "--run_dir" in message


def test_what_does_not_change_the_result_is_no_change(run_copy: Path):
    assert fit(run_copy, "--multitask.data.init_args.eval_batch_size=64") == 0


@pytest.mark.slow
def test_a_setting_spelt_otherwise_is_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = yaml.safe_load((CONF / "chain.yaml").read_text())
    config["disentangle"]["trainer"] |= {"devices": 1, "precision": 32, "gradient_clip_val": 1}
    path, run_dir = tmp_path / "chain.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(config))
    words = ["--config", str(path), "--run_dir", str(run_dir), "--until=evaluate"]
    assert run_chain([*words, "--disentangle.trainer.max_epochs=1"], in_process) == 0
    trainer = json.loads((run_dir / "disentangle/stage.json").read_text())["settings"]["trainer"]
    assert trainer["devices"] == 1
    words += [f"--disentangle.trainer.{name}" for name in ("max_epochs=1", "devices=1")]
    words += [
        f"--disentangle.trainer.{name}" for name in ("precision=32-true", "gradient_clip_val=1.0")
    ]
    capsys.readouterr()
    assert run_chain(words, in_process) == 0
    assert capsys.readouterr().err.count("skipped") == 2
    with pytest.raises(ArtifactError, match=r"trainer.devices was 1, is '2'"):
        run_chain([*words, "--disentangle.trainer.devices=2"], in_process)


def test_a_relative_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = ["--seeds=1", "--controls=[]", "--baselines=[]", "--evaluate.metrics=[]"]
    words += ["--multitask.trainer.max_epochs=1"]
    assert fit(Path("runs/here"), *words) == 0
    assert fit(tmp_path / "runs" / "here", *words) == 0
    outputs = json.loads(Path("runs/here/disentangle/stage.json").read_text())["outputs"]
    assert set(outputs) == {"checkpoints/last.ckpt", "config.yaml", "metrics.csv"}


def test_redo_replaces_a_stage_and_what_follows(run_copy: Path, capsys: pytest.CaptureFixture[str]):
    labels = AuxiliaryLabels.load(run_copy / "cluster")
    assert fit(run_copy, "--cluster.noise=drop", "--redo=cluster", "--until=cluster") == 0
    assert not (run_copy / "multitask" / "hard_parameter_sharing" / "seed0").exists()
    assert (run_copy / "multitask" / "single_task" / "seed0").exists()  # it reads no labels
    assert not (run_copy / "report").exists()
    again = AuxiliaryLabels.load(run_copy / "cluster")
    np.testing.assert_array_equal(again.is_noise, labels.is_noise)
    assert (again.labels[again.is_noise] == -1).all()


@pytest.mark.parametrize("name", ["labels.npz", "labels.json"])
def test_a_changed_byte_is_refused(run_copy: Path, name: str):
    path = run_copy / "cluster" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} was changed after the stage wrote it"):
        fit(run_copy)


def test_fewer_arms_and_more_seeds_change_the_report_alone(run_copy: Path):
    before = {path: path.stat().st_mtime_ns for path in run_copy.rglob("best.ckpt")}
    assert fit(run_copy, "--controls=[]", "--seeds=3") == 0
    report = json.loads((run_copy / "report" / "report.json").read_text())
    assert list(report["arms"]) == ["hard_parameter_sharing", "single_task"]
    assert len(report["arms"]["single_task"]["accuracies"]) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    stamp = (run_copy / "report" / "report.html").stat().st_mtime_ns
    assert fit(run_copy, "--controls=[]", "--seeds=3") == 0
    assert (run_copy / "report" / "report.html").stat().st_mtime_ns == stamp


def test_what_a_command_did_once_is_not_remembered(run_copy: Path):
    assert fit(run_copy, "--redo=report", "--until=cluster") == 0
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    assert config["redo"] is None
    assert config["until"] is None


def test_a_stage_reads_the_labels_of_the_run_it_is_given(run_copy: Path, tmp_path: Path):
    for stage in ("disentangle", "cluster"):
        shutil.copytree(run_copy / stage, tmp_path / "other" / stage)
    config = str(run_copy / "multitask" / "hard_parameter_sharing" / "seed0" / "config.yaml")
    words = ["multitask", "fit", "--config", config, "--run_dir", str(tmp_path / "other")]
    assert main(words) == 0
    folder = tmp_path / "other" / "multitask" / "hard_parameter_sharing" / "seed0"
    manifest = json.loads((folder / "stage.json").read_text())
    assert list(manifest["inputs"]) == ["cluster"]
    assert (
        yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]["labels"] is None
    )


def test_records_survive_torn_rows_and_a_second_merge(tmp_path: Path):
    (tmp_path / "logs" / "part0").mkdir(parents=True)
    (tmp_path / "logs" / "part0" / "metrics.csv").write_text("epoch,step,a\n0,1,5\n1,3,6\n2")
    merge_records(tmp_path)
    merge_records(tmp_path)
    rows = (tmp_path / "metrics.csv").read_text().split()
    assert rows == ["epoch,step,a", "0,1,5", "1,3,6"]


def test_a_report_is_made_anew_not_refused(run_copy: Path):
    (run_copy / "report" / "report.html").write_text("spoilt")
    assert fit(run_copy) == 0
    assert (run_copy / "report" / "report.html").read_text().lstrip().startswith("<!")


def test_two_runs_on_one_folder(run_copy: Path):
    code = (
        "import time; from pathlib import Path; from detaux_pl.artifacts.lock import run_lock\n"
        f"with run_lock(Path({str(run_copy)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ArtifactError, match=f"in use by process {other.pid}"):
            fit(run_copy)
        other.kill()
    with run_lock(run_copy):
        pass


def test_a_crashed_arm_leaves_the_others_and_is_resumed(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
):
    from detaux_pl.multitask.single_task import SingleTask

    def crash(self: SingleTask) -> None:
        if self.current_epoch == 1:
            raise RuntimeError("power cut")

    # The base class defines the hook; an attribute of the subclass goes before it.
    monkeypatch.setattr(SingleTask, "on_train_epoch_end", crash, raising=False)
    copy_stages(finished_run, tmp_path, "disentangle", "evaluate", "cluster")
    assert fit(tmp_path) == 1
    done = {path.parts[-3] for path in tmp_path.glob("multitask/*/seed*/test.json")}
    assert done == {"hard_parameter_sharing", "shuffled"}
    assert (tmp_path / "multitask/single_task/seed0/checkpoints/last.ckpt").is_file()
    monkeypatch.undo()
    assert fit(tmp_path) == 0
    for seed in ("seed0", "seed1"):
        for name in ("test.json", "metrics.csv"):
            path = Path("multitask") / "single_task" / seed / name
            assert (tmp_path / path).read_text() == (finished_run / path).read_text()


def test_an_interrupted_disentangler_ends_with_the_same_codes(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
):
    original = ResidualAutoencoder.on_train_epoch_end

    def crash(self: ResidualAutoencoder) -> None:
        if self.current_epoch == 2:
            raise RuntimeError("power cut")
        original(self)

    monkeypatch.setattr(ResidualAutoencoder, "on_train_epoch_end", crash)
    words = ["--until=cluster", "--evaluate.metrics=[]"]
    assert fit(tmp_path, *words) == 1
    monkeypatch.undo()
    assert fit(tmp_path, *words) == 0
    codes, expected = (
        Codes.load(run / "disentangle" / "codes") for run in (tmp_path, finished_run)
    )
    np.testing.assert_array_equal(codes.values, expected.values)
    _assert_same_labels(tmp_path, finished_run)


def test_arms_inherit_the_main_model_and_differ_where_they_say():
    parsed = parse(
        [
            "--config", str(CONF / "chain.yaml"), "--multitask.model.lr=0.003",
            "--baselines", "[{class_path: SingleTask, init_args: {weight_decay: 0.5}}]",
            "--controls", "[shuffled, location]", "--seed=10", "--seeds=3",
        ]
    )  # fmt: skip
    assert list(parsed.arms) == [*ARMS, "location"]
    single = parsed.arms["single_task"][2]
    assert single["model"]["init_args"]["lr"] == 0.003
    assert single["model"]["init_args"]["backbone"] == "small_convnet"
    assert single["model"]["init_args"]["weight_decay"] == 0.5
    assert [config["seed_everything"] for config in parsed.arms["location"]] == [10, 11, 12]
    assert parsed.arms["location"][0]["data"]["init_args"]["auxiliary"] == "location"
    assert parsed.arms["shuffled"][1]["data"]["init_args"]["seed"] == 11


def test_a_stage_file_replaces_the_stage_and_overrides_apply_to_it():
    quickstart = CONF.parents[1] / "configs" / "quickstart.yaml"
    file = quickstart.parent / "disentangle" / "product_manifold.yaml"
    for given in (["--disentangle", str(file)], [f"--disentangle={file}"]):
        parsed = parse(
            ["--config", str(quickstart), *given, "--disentangle.model.lr=0.5", "--seeds=2"]
        )
        model = parsed.config["disentangle"]["model"]
        assert model["class_path"].endswith(".ProductManifoldAutoencoder")
        assert model["init_args"]["n_subspaces"] == 10
        assert model["init_args"]["lr"] == 0.5
        assert parsed.config["seeds"] == 2
        assert parsed.config["cluster"]["noise"] == "nearest"
        assert parsed.config["disentangle"]["trainer"]["max_epochs"] == 160


def test_under_a_launcher_the_chain_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="launch"):
        run_chain(["--config", str(CONF / "chain.yaml")])


def test_print_config_round_trips(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", str(CONF / "chain.yaml"), "--print_config"])
    assert caught.value.code == 0
    path = tmp_path / "all.yaml"
    path.write_text(capsys.readouterr().out)
    first = parse(["--config", str(CONF / "chain.yaml")])
    second = parse(["--config", str(path)])
    assert first == second


def _assert_same_labels(run: Path, other: Path) -> None:
    first, second = (AuxiliaryLabels.load(path / "cluster") for path in (run, other))
    assert first.ids.tolist() == second.ids.tolist()
    assert first.labels.tolist() == second.labels.tolist()


def test_two_configs_are_one_too_many(tmp_path: Path, error_line: Callable[[list[str]], str]):
    own, more = CONF / "chain.yaml", tmp_path / "seed.yaml"
    more.write_text("seed: 3\n")
    words = ["fit", "--config", str(own), "--config", str(more)]
    assert f"--config is given 2 files ({own}, {more}), and a chain takes one" in error_line(words)
    part = tmp_path / "part.yaml"
    part.write_text("pca: 3\n")
    words = ["fit", "--config", str(own), f"--cluster={part}", f"--cluster={part}"]
    assert "--cluster is given 2 files" in error_line(words)


def test_a_refused_command_leaves_the_report(
    run_copy: Path, error_line: Callable[[list[str]], str]
):
    config = str(run_copy / "cluster" / "config.yaml")
    # Its config names the folder, which is another one now: it counts as another result.
    assert main(["cluster", "--config", config, "--redo", "cluster"]) == 0
    words = ["fit", "--config", str(CONF / "chain.yaml"), "--run_dir", str(run_copy)]
    line = error_line([*words, "--redo=report"])
    assert "was made from another result of `cluster`" in line
    assert (run_copy / "report" / "report.html").is_file()


def test_a_number_of_processes_that_is_none(tmp_path: Path, error_line: Callable[[list[str]], str]):
    words = ["fit", "--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path), "--jobs=0"]
    assert "jobs is 0: give at least 1, or null" in error_line(words)
