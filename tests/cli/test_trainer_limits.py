"""Settings that leave a stage without what it is to leave behind; numbers that none may have."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detaux_pl.cli.main import main
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from tests.cli.conftest import CONF

Refused = Callable[[list[str]], str]
BOTH = ("disentangle", "multitask")
CALLBACKS = "lightning.pytorch.callbacks"


def stage(name: str, run_dir: Path, *args: str) -> list[str]:
    """4 training batches and one of each other split, one epoch."""
    model = {"disentangle": "Autoencoder", "multitask": "SingleTask"}[name]
    words = [name, "fit", f"--run_dir={run_dir}", f"--model={model}", "--trainer.accelerator=cpu"]
    words += ["--model.backbone=small_convnet"] if name == "multitask" else []
    words += ["--data.dataset=DigitScenes", "--data.dataset.n_train=128", "--trainer.max_epochs=1"]
    words += ["--data.dataset.n_val=32", "--data.dataset.n_test=32"]
    return [*words, "--trainer.enable_progress_bar=false", *args]


def callback(name: str, **arguments: str) -> str:
    listed = [{"class_path": f"{CALLBACKS}.{name}", "init_args": arguments}]
    return f"--trainer.callbacks={json.dumps(listed)}"


def chain(run_dir: Path, *args: str) -> list[str]:
    return ["fit", "--config", str(CONF / "chain.yaml"), "--run_dir", str(run_dir), *args]


@pytest.mark.parametrize(
    ("stages", "given", "advice"),
    [
        (BOTH, "max_epochs=0", "give at least 1, or -1"),
        (BOTH, "max_steps=0", "give at least 1, or -1"),
        (BOTH, "overfit_batches=1", "set limit_train_batches"),
        (BOTH, "limit_train_batches=0", "no batch of the training is left"),
        (BOTH, "limit_train_batches=-1", "a share of them from 0.0 to 1.0"),
        (BOTH, "limit_val_batches=1.5", "a share of them from 0.0 to 1.0"),
        (BOTH, "check_val_every_n_epoch=0", "at least 1 epoch, or null"),
        (BOTH, "val_check_interval=0", "a share of an epoch up to 1.0"),
        (BOTH, "val_check_interval=-1", "a share of an epoch up to 1.0"),
        (BOTH, "accumulate_grad_batches=0", "give at least 1 batch"),
        (BOTH, "gradient_clip_val=-1", "give a positive number, or null"),
        (BOTH, "gradient_clip_val=.inf", "give a positive number, or null"),
        (("disentangle",), "limit_predict_batches=1", "codes are of every image"),
        (("multitask",), "limit_val_batches=0", "no batch of the validation is left"),
        (("multitask",), "limit_test_batches=0.0", "no batch of the test is left"),
        (("multitask",), "check_val_every_n_epoch=2", "there are 1 epochs: give at most as many"),
    ],
)
def test_what_leaves_nothing_is_refused_by_stage_and_chain(
    stages, given, advice, tmp_path, error_line: Refused
):
    key, value = given.split("=")
    for name in stages:
        for words in (
            stage(name, tmp_path, f"--trainer.{given}"),
            chain(tmp_path, f"--{name}.trainer.max_epochs=1", f"--{name}.trainer.{given}"),
        ):
            line = error_line(words)
            assert line.startswith(f"error: {name}.trainer.{key} is {value.strip('.')}: ")
            assert advice in line
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("name", "arg", "words"),
    [
        ("multitask", callback("EarlyStopping", monitor="val_loss"),
         ["EarlyStopping monitors 'val_loss', which nothing logs", "val/loss/principal"]),
        ("multitask", callback("ModelCheckpoint", monitor="val/loss"), ["Checkpoint monitors"]),
        ("disentangle", callback("EarlyStopping", monitor="loss"), ["give val/loss, or another"]),
        # What a disentangler logs beyond its loss is known once it has.
        ("disentangle", callback("EarlyStopping", monitor="val/kl"), ["use any of", "val/loss"]),
        ("disentangle", callback("ModelCheckpoint", monitor="val/kl"), ["val/kl", "val/loss"]),
        ("disentangle", "--trainer.limit_train_batches=0.01", ["0.01 * 4 < 1", "Try at least"]),
        ("multitask", "--trainer.limit_val_batches=0.5", ["0.5 * 1 < 1"]),
        ("multitask", "--trainer.limit_test_batches=0.5", ["0.5 of 1 batch(es)"]),
        ("multitask", "--trainer.val_check_interval=5", ["val_check_interval", "batches (4)"]),
        ("multitask", "--trainer.max_time=00:00:00:00", ["first step, give it more time"]),
        ("disentangle", "--trainer.max_time=00:00:00:00", ["before its first step"]),
    ],
)  # fmt: skip
def test_what_is_known_with_the_data_is_one_line(name, arg, words, tmp_path, error_line: Refused):
    line = error_line(stage(name, tmp_path, arg))
    assert line.startswith(f"error: {name}.trainer")
    assert all(word in line for word in words), line


def test_no_test_split_is_said_before_the_training(tmp_path, error_line: Refused, monkeypatch):
    rows = DigitScenes.rows
    monkeypatch.setattr(
        DigitScenes, "rows", lambda self, split: rows(self, split)[: 0 if split == "test" else None]
    )
    line = error_line(stage("multitask", tmp_path))
    assert "the test split of DigitScenes is empty" in line
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("limit", ["max_steps=2", "max_time=00:00:00:01"])
def test_a_training_that_ends_before_its_first_validation_is_validated_at_its_end(limit, tmp_path):
    endless = "--trainer.check_val_every_n_epoch=1000"
    args = ("--trainer.max_epochs=-1", endless, f"--trainer.{limit}")
    assert main(stage("multitask", tmp_path, *args)) == 0
    folder = tmp_path / "multitask/single_task/seed0"
    with (folder / "metrics.csv").open() as handle:
        found = [row["val/accuracy/principal"] for row in csv.DictReader(handle)]
    validated = [float(value) for value in found if value]
    assert len(validated) == 1
    assert {path.name for path in folder.rglob("*.ckpt")} == {"best.ckpt"}
    assert 0 <= json.loads((folder / "test.json").read_text())["test/accuracy/principal"] <= 1
    assert main(["multitask", "test", *stage("multitask", tmp_path, *args)[2:]]) == 0


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_that_no_generator_takes(seed, tmp_path, error_line: Refused):
    allowed = f"is {seed}: give a whole number from 0 to {2**32 - 1}"
    for name in BOTH:
        line = error_line(stage(name, tmp_path, f"--seed_everything={seed}"))
        assert f"{name}.seed_everything {allowed}." in line
    for command in ("cluster", "evaluate", "refine"):
        line = error_line([command, "--run_dir", str(tmp_path), f"--seed={seed}"])
        assert f"error: seed {allowed}." in line


def test_seeds_that_are_counted_from_one_are_in_range_too(tmp_path, error_line: Refused):
    line = error_line(chain(tmp_path, f"--seed={2**32 - 2}", "--seeds=4"))
    assert f"from 0 to {2**32 - 4}, for the last one is 3 more" in line
    line = error_line(chain(tmp_path, "--seed=-1"))
    assert "error: seed is -1" in line


@pytest.mark.parametrize(
    ("name", "arg", "words"),
    [
        ("disentangle", "model.lr=.inf", "disentangle.model.lr is inf: give a finite number"),
        ("disentangle", "model.lr=-1", "lr is -1.0"),
        ("disentangle", "model.lr=.nan", "disentangle.model.lr is nan"),
        ("multitask", "model.lr=.inf", "multitask.model.lr is inf"),
        ("multitask", "model.lr=0", "lr must be positive"),
        ("multitask", "model.weight_decay=.nan", "multitask.model.weight_decay is nan"),
        ("multitask", "model.hidden=0", "hidden is 0: give the heads at least 1 hidden unit"),
        ("multitask", "model.hidden=-1", "hidden is -1"),
    ],
)
def test_numbers_that_train_nothing(name, arg, words, tmp_path, error_line: Refused):
    assert words in error_line(stage(name, tmp_path, f"--{arg}"))
    assert words in error_line(chain(tmp_path, f"--{name}.{arg}"))


def test_numbers_of_baselines_discoveries_and_nets(tmp_path, error_line: Refused):
    nan = "{class_path: %s, init_args: {%s: .nan}}"
    line = error_line(chain(tmp_path, f"--baselines=[{nan % ('SingleTask', 'dropout')}]"))
    assert "multitask.model.dropout is nan" in line
    weighting = "{class_path: UncertaintyWeighting}"
    hidden = (
        f"{{class_path: HardParameterSharing, init_args: {{hidden: 0, weighting: {weighting}}}}}"
    )
    line = error_line(chain(tmp_path, "--refine.rounds=1", f"--nets.model={hidden}"))
    assert "hidden is 0" in line
    own = f"{{a: {{disentangle: {{model: {nan % ('Autoencoder', 'lr')}}}}}}}"
    assert "disentangle.model.lr is nan" in error_line(chain(tmp_path, f"--discoveries={own}"))


LARGE = "--data.dataset.image_size=32"  # of which ResNet-18 leaves a map of one place


@pytest.mark.parametrize(
    ("model", "args"),
    [
        ("SingleTask", ["--model.backbone=resnet18"]),
        ("MAXL", ["--model.backbone=resnet18"]),
        ("AuxiLearn", ["--model.backbone=resnet18"]),
        ("Autoencoder", ["--model.autoencoder=resnet18", "--data=ImageDataModule"]),
    ],
)
def test_a_batch_of_one_image_with_batch_norm_on_one_place(
    model, args, tmp_path, error_line: Refused
):
    name = "disentangle" if model == "Autoencoder" else "multitask"
    words = [*stage(name, tmp_path, LARGE), f"--model={model}", *args]
    line = error_line([*words, "--data.batch_size=1"])
    assert f"error: {name}.data.batch_size is 1: a map of the network has one place" in line
    assert not list(tmp_path.rglob("*.ckpt"))
    again = [*words, "--data.batch_size=2", "--trainer.limit_train_batches=2"]
    assert model != "Autoencoder" or main([*again, f"--run_dir={tmp_path / 'two'}"]) == 0


def test_a_batch_of_one_image_trains_where_maps_have_several_places(tmp_path):
    words = stage("multitask", tmp_path, "--data.batch_size=1", "--trainer.limit_train_batches=2")
    assert main(words) == 0


def test_the_chain_says_so_before_it_trains(tmp_path, error_line: Refused):
    words = ["--dataset.image_size=32", "--multitask.model.backbone=resnet18"]
    line = error_line(chain(tmp_path, *words, "--multitask.data.batch_size=1"))
    assert "error: multitask.data.batch_size is 1" in line
    images = ["--disentangle.data=ImageDataModule", "--disentangle.data.batch_size=1"]
    line = error_line(chain(tmp_path, *words, *images, "--disentangle.model.autoencoder=resnet18"))
    assert "error: disentangle.data.batch_size is 1" in line
    assert not (tmp_path / "disentangle").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("strategy=bogus", "multitask.trainer: "),
        ("accelerator=bogus", "multitask.trainer: "),
        ("profiler=bogus", "multitask.trainer: "),
        ("gradient_clip_algorithm=bogus", "multitask.trainer: "),
        ("max_time=soon", "multitask.trainer"),
        ("devices=0", "multitask.trainer: "),
        ("num_nodes=2", "multitask.trainer.num_nodes is 2, and `detaux fit` starts the processes"),
    ],
)
def test_what_lightning_would_refuse_in_a_later_stage_is_refused_at_once(
    setting: str, said: str, tmp_path: Path, error_line: Refused
):
    words = ["fit", "--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path / "run")]
    assert said in error_line([*words, f"--multitask.trainer.{setting}"])
    assert not (tmp_path / "run" / "disentangle").exists()
