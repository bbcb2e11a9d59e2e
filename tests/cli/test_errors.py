"""Bad input: one clear line, exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.cli.main import main
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from tests.cli.conftest import CONF

Refused = Callable[[list[str]], str]
CHAIN = str(CONF / "chain.yaml")


def _chain(tmp_path: Path, *args: str) -> list[str]:
    return ["fit", "--config", CHAIN, "--run_dir", str(tmp_path / "run"), *args]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--nonsense=1"], ["there is no setting 'nonsense'"]),
        (["--disentangle.model.nonsense=1"], ["disentangle.model", "nonsense"]),
        (["--dataset.principal=hue"], ["'hue'", "digit, background, location"]),
        (["--dataset.image_size=20"], ["image_size is 20", "16, 32 or 64"]),
        (["--dataset=DigitScene"], ["there is no 'DigitScene'", "did you mean 'DigitScenes'"]),
        (["--disentangle.model=Foo"], ["there is no 'Foo'", "ResidualAutoencoder"]),
        (["--multitask.model.backbone=vgg16"], ["vgg16", "32"]),
        (["--baselines=[Foo]"], ["'Foo'", "SingleTask"]),
        (["--baselines=[{class_path: SingleTask, foo: 3}]"], ["foo", "class_path and init_args"]),
        (["--baselines=[{class_path: SingleTask, init_args: 3}]"], ["init_args with settings"]),
        (["--baselines=[os.path.join]"], ["'os.path.join'", "no multi-task model"]),
        (["--baselines=[detaux_pl.multitask.base]"], ["no multi-task model", "SingleTask"]),
        (["--baselines=[torch.nn.Linear]"], ["'torch.nn.Linear'", "no multi-task model"]),
        (["--dataset.n_train=10000000000000"], ["n_train is 10000000000000", "1 to 10,000,000"]),
        (["--controls=[discovered]"], ["'discovered'", "leave it out"]),
        (["--multitask.arm=a\tb"], ["'a\\tb'", "letters that can be shown"]),
        (["--disentangle.trainer.devices=two"], ["'two'", "a number, a list or auto"]),
        (["--multitask.trainer.fast_dev_run=true"], ["multitask.trainer", "checkpoint"]),
        (["--disentangle.data.dataset=SyntheticShapes3D"], ["--dataset"]),
        (["--disentangle.data.init_args.noise.amount=0.4"], ["set --noise"]),
        (["--multitask.seed_everything=4"], ["set --seed"]),
        (["--disentangle.model.init_args.image_shape=[1,2,3]"], ["taken from the data"]),
        (["--multitask.data.init_args.labels=elsewhere"], ["labels that it discovers"]),
        (["--baselines=[SingleTask,SingleTask]"], ["two arms are named 'single_task'"]),
        (["--controls=[colour]"], ["'colour'", "background, location"]),
        (["--seeds=0"], ["seeds is 0"]),
        (["--seeds=many"], ["seeds", "many"]),
        (["--redo=clusters"], ["'clusters'", "did you mean 'cluster'"]),
        (["--until=all"], ["'all'", "disentangle, evaluate, cluster, refine, multitask, report"]),
        (["--noise.amount=1.5"], ["amount is 1.5", "[0, 1]"]),
        (
            [
                "--disentangle.data.pairing=PrincipalPairs",
                "--disentangle.data.pairing.p_different=2",
            ],
            ["p_different is 2", "[0, 1]"],
        ),
        (["--cluster.noise=keep"], ["cluster.noise", "own_class", "keep"]),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(
    error_line: Refused, tmp_path: Path, args: list[str], words: list[str]
):
    line = error_line(_chain(tmp_path, *args))
    for word in words:
        assert word in line
    assert not list((tmp_path / "run").glob("*/stage.json"))


@pytest.mark.parametrize("command", [["fit"], ["slurm"], ["data", "check"]])
def test_a_folder_without_a_run_is_not_gone_on_with(
    error_line: Refused, tmp_path: Path, command: list[str]
):
    nowhere = str(tmp_path / "nowhere")
    line = error_line([*command, "--run_dir", nowhere, "--seeds=3"])
    assert f"--run_dir is {nowhere}, where there is no run to go on with" in line
    assert not (tmp_path / "nowhere").exists()


def test_an_unknown_key_in_the_file_is_named(error_line: Refused, tmp_path: Path):
    config = yaml.safe_load(Path(CHAIN).read_text())
    config["disentangle"]["trainer"]["max_epoch"] = 3
    path = tmp_path / "typo.yaml"
    path.write_text(yaml.safe_dump(config))
    line = error_line(["fit", "--config", str(path)])
    assert "disentangle.trainer (Trainer) has no setting 'max_epoch'" in line
    assert "nowhere.yaml" in error_line(["fit", "--config", "nowhere.yaml"])


@pytest.mark.parametrize(
    ("key", "value", "source"),
    [
        ("dataset", {"class_path": "DigitScenes", "init_args": {"n_train": 300}}, "dataset"),
        ("noise", {"amount": 0.3}, "noise"),
        ("seed_everything", 3, "seed"),
    ],
)
def test_a_stage_that_contradicts_the_chain_is_told_so(
    error_line: Refused, tmp_path: Path, key: str, value: object, source: str
):
    config = yaml.safe_load(Path(CHAIN).read_text())
    stage = config["multitask"]
    if key != "seed_everything":
        stage = stage.setdefault("data", {}).setdefault("init_args", {})
    stage[key] = value
    path = tmp_path / "twice.yaml"
    path.write_text(yaml.safe_dump(config))
    line = error_line(["fit", "--config", str(path), "--run_dir", str(tmp_path / "run")])
    assert f"set {source} at the top" in line


def test_a_redo_that_cannot_begin_removes_nothing(error_line: Refused, run_copy: Path):
    before = sorted(run_copy.rglob("*.ckpt"))
    error_line(["fit", "--config", CHAIN, "--run_dir", str(run_copy), "--redo=disentangle",
                "--dataset.image_size=20"])  # fmt: skip
    error_line(["fit", "--config", CHAIN, "--run_dir", str(run_copy), "--redo=multitask",
                "--disentangle.model.lr=0.5"])  # fmt: skip
    assert sorted(run_copy.rglob("*.ckpt")) == before


def test_damaged_files_are_named(error_line: Refused, run_copy: Path, tmp_path: Path):
    chain = ["fit", "--config", CHAIN, "--run_dir"]
    (tmp_path / "file").write_text("")
    assert "cannot be used as a run folder" in error_line([*chain, str(tmp_path / "file")])
    (tmp_path / "torn.yaml").write_text("dataset: {class_path")
    assert "torn.yaml is not readable YAML" in error_line(
        ["fit", "--config", str(tmp_path / "torn.yaml")]
    )
    (run_copy / "cluster" / "stage.json").write_text("[]")
    assert "stage.json is damaged" in error_line([*chain, str(run_copy)])


def test_a_damaged_checkpoint_is_named(error_line: Refused, run_copy: Path):
    folder = run_copy / "disentangle"
    config = ["disentangle", "fit", "--config", str(folder / "config.yaml")]
    manifest = (folder / "stage.json").read_text().replace('"complete"', '"running"')
    (folder / "stage.json").write_text(manifest)
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert "last.ckpt cannot be read" in error_line([*config, "--run_dir", str(run_copy)])


def test_a_report_needs_a_trained_network(error_line: Refused, run_copy: Path):
    for path in run_copy.glob("multitask/*/seed*/stage.json"):
        path.unlink()
    assert "no trained network" in error_line(["report", "--run_dir", str(run_copy)])


def test_a_missing_dataset_file(error_line: Refused, tmp_path: Path):
    words = ["disentangle", "fit", "--run_dir", str(tmp_path), "--model=ResidualAutoencoder"]
    words += ["--data.dataset=Shapes3D", f"--data.dataset.path={tmp_path / '3dshapes.h5'}"]
    words += ["--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    assert "3dshapes.h5 does not exist" in error_line(words)


def test_an_image_size_that_the_autoencoder_cannot_halve(error_line: Refused, tmp_path: Path):
    shapes = str(CONF / "shapes.yaml")
    line = error_line(
        ["fit", "--config", shapes, "--run_dir", str(tmp_path), "--dataset.image_size=20"]
    )
    assert "image_size is 20" in line
    assert "multiple of 16" in line


def _stage(run_dir: Path) -> list[str]:
    return [
        "disentangle", "fit", "--run_dir", str(run_dir), "--model=ResidualAutoencoder",
        "--data.dataset=DigitScenes", "--data.dataset.n_train=64", "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip


def test_one_class_only(error_line: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    setup = DigitScenes.setup

    def one_class(self: DigitScenes) -> None:
        setup(self)
        self.factors[:, 0] = 7

    monkeypatch.setattr(DigitScenes, "setup", one_class)
    line = error_line(_stage(tmp_path))
    assert "one class only (7)" in line
    assert "at least 2 classes" in line


def test_nan_pixels(error_line: Refused, tmp_path: Path):
    path = tmp_path / "nan.h5"
    with h5py.File(path, "w") as file:
        shape = (480_000, 64, 64, 3)
        file.create_dataset("images", shape, "float32", chunks=(1, *shape[1:]), fillvalue=np.nan)
        grid = np.meshgrid(
            *[np.linspace(0, 0.9, 10)] * 3, np.linspace(0.75, 1.25, 8), np.arange(4),
            np.linspace(-30, 30, 15), indexing="ij",
        )  # fmt: skip
        file["labels"] = np.stack([values.ravel() for values in grid], axis=1)
    words = ["disentangle", "fit", "--run_dir", str(tmp_path / "run"), "--trainer.accelerator=cpu"]
    words += ["--model=ResidualAutoencoder", "--data.dataset=Shapes3D", "--trainer.max_epochs=1"]
    words += [f"--data.dataset.{key}" for key in (f"path={path}", "n_train=64", "n_val=32")]
    line = error_line(words)
    assert "nan.h5 holds NaN" in line


def test_labels_that_miss_ids(error_line: Refused, run_copy: Path, tmp_path: Path):
    labels = AuxiliaryLabels.load(run_copy / "cluster")
    keep = labels.ids != 17
    shorter = AuxiliaryLabels(
        labels.ids[keep], labels.splits[keep], labels.labels[keep], labels.is_noise[keep],
        labels.strength[keep], labels.n_classes, labels.meta,
    )  # fmt: skip
    shorter.save(tmp_path / "labels")
    config = run_copy / "multitask" / "hard_parameter_sharing" / "seed0" / "config.yaml"
    words = ["multitask", "fit", "--config", str(config), "--run_dir", str(tmp_path / "other")]
    line = error_line([*words, f"--data.labels={tmp_path / 'labels'}"])
    assert "miss 1 of 384 sample ids (first: 17)" in line


def test_a_run_folder_of_another_config(error_line: Refused, run_copy: Path):
    line = error_line(["fit", "--config", CHAIN, "--run_dir", str(run_copy), "--seed=3"])
    assert "--run_dir" in line
    assert "--redo disentangle" in line


def test_a_single_stage_refuses_what_it_cannot_use(error_line: Refused, run_copy: Path):
    assert "choose one of fit, validate" in error_line(["disentangle", "learn"])
    assert "unknown command 'fitt'" in error_line(["fitt"])
    line = error_line(["cluster", "--run_dir", str(run_copy / "nowhere")])
    assert "run `disentangle/codes` first" in line
    config = str(run_copy / "disentangle" / "config.yaml")
    line = error_line(["disentangle", "fit", "--config", config, "--trainer.max_epochs=9"])
    assert "max_epochs was 4, is 9" in line
    assert "--redo is 'cluster'" in error_line(
        ["disentangle", "fit", "--config", config, "--redo=cluster"]
    )
    line = error_line(["cluster", "--run_dir", str(run_copy), "--redo=codes"])
    assert "--redo is 'codes'" in line


def test_help_is_short_and_needs_no_torch(capsys: pytest.CaptureFixture[str]):
    import subprocess
    import sys

    probe = (
        "import sys; from detaux_pl.cli.main import main; main(['--help']);"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "False"
    assert len(out.stdout.splitlines()) < 60
    commands = ("fit", "disentangle", "multitask fit", "evaluate", "cluster", "report", "probes")
    for command in map(str.split, commands):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--help"])
        assert caught.value.code == 0
        assert 5 < len(capsys.readouterr().out.splitlines()) < 60
    assert main(["--version"]) == 0
    assert main([]) == 2


def test_a_single_stage_tests_a_finished_arm(run_copy: Path, capsys: pytest.CaptureFixture[str]):
    folder = run_copy / "multitask" / "single_task" / "seed0"
    assert main(["multitask", "test", "--config", str(folder / "config.yaml"),
                 "--run_dir", str(run_copy)]) == 0  # fmt: skip
    assert "test/accuracy/principal" in capsys.readouterr().out
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("nets: &x {model: *x}", "an anchor contains itself"),
        ("seed: 1\nseed: 2", "seed is set twice, again in line 2: keep one"),
        ("dataset:\n  init_args: {n_val: 1, n_val: 2}", "n_val is set twice, again in line 2"),
    ],
)
def test_a_file_of_no_one_meaning_is_refused(
    error_line: Refused, tmp_path: Path, said: str, words: str
):
    path = tmp_path / "chain.yaml"
    path.write_text(said)
    line = error_line(["fit", "--config", str(path), "--run_dir", str(tmp_path / "run")])
    assert words in line
    assert str(path) in line


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("cluster: 3", "cluster is 3"),
        ("multitask: 1.5", "multitask is 1.5"),
        ("evaluate: [a]", "evaluate is [a]"),
        ("disentangle: null", "disentangle is null"),
        ("nets: 3", "nets is 3"),
        ("tracking: on", "tracking is true"),
    ],
)
def test_a_stage_that_is_no_settings_is_refused(
    error_line: Refused, tmp_path: Path, said: str, words: str
):
    path = tmp_path / "chain.yaml"
    path.write_text(f"dataset: DigitScenes\n{said}")
    line = error_line(["fit", "--config", str(path), "--run_dir", str(tmp_path / "run")])
    assert line.startswith(f"error: {words}: give settings by name")


@pytest.mark.parametrize("said", ["trainer: 3", "tracking: [a]"])
def test_settings_of_a_stage_that_are_none_are_refused(
    error_line: Refused, tmp_path: Path, said: str
):
    path = tmp_path / "stage.yaml"
    path.write_text(said)
    line = error_line([*_stage(tmp_path / "run")[:6], "--config", str(path)])
    assert line.startswith(f"error: {said.replace(':', ' is')}: give settings by name")


@pytest.mark.parametrize("command", [["fit"], ["data", "check"], ["data", "show"]])
def test_no_words_at_all(error_line: Refused, command: list[str]):
    assert "dataset" in error_line(command)


@pytest.mark.parametrize("command", ["compare", "probes", "metrics"])
@pytest.mark.parametrize("name", ["x.pdf", "x.csv", "out/x.markdown"])
def test_a_file_of_a_form_that_there_is_not(
    error_line: Refused, run_copy: Path, command: str, name: str
):
    line = error_line([command, str(run_copy), "--output", name])
    assert f"--output is {name}" in line
    assert "ending in .html, .md, .tex, .txt" in line
    assert not Path(name).exists()


def test_memory_that_does_not_suffice(
    error_line: Refused, run_copy: Path, monkeypatch: pytest.MonkeyPatch
):
    def setup(self: DigitScenes) -> None:
        np.empty((1 << 50,))

    monkeypatch.setattr(DigitScenes, "setup", setup)
    line = error_line(["data", "show", "--config", CHAIN, "--run_dir", str(run_copy)])
    assert "the memory does not suffice (Unable to allocate 8.00 PiB" in line
    assert "fewer or smaller images" in line
