"""Recipes by the command line: killed and gone on, by workers and ranks, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from detaux_pl import load
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.cli.main import main
from detaux_pl.training import stage_job
from tests.cli.conftest import CONF, copy_stages
from tests.cli.test_resume import StopAt
from tests.ranks import fork_ranks

ARM = "multitask/hard_parameter_sharing/seed0"
RECIPE = "{mixup: 0.5, cutmix: 1.0, smoothing: 0.1, ema: 0.9, warmup: 0.1, balance: true}"


def _words(finished_run: Path, folder: Path) -> list[str]:
    """What trains the arm with all of a recipe, in a run that has the labels of a finished one."""
    if not folder.exists():
        copy_stages(finished_run, folder, "disentangle", "cluster")
    return [
        "multitask", "fit", "--config", str(finished_run / ARM / "config.yaml"), "--run_dir",
        str(folder), "--data.augment=strong", f"--model.recipe={RECIPE}",
    ]  # fmt: skip


def _end(folder: Path) -> tuple[dict[str, Any], Predictions]:
    saved = torch.load(folder / ARM / "checkpoints" / "best.ckpt", weights_only=True)
    assert not saved.keys() & {"optimizer_states", "current_model_state", "averaging_state"}
    return saved["state_dict"], Predictions.load(folder / ARM / "predictions.npz", "again")


def _assert_same(one: Path, other: Path) -> None:
    (own, says), (others, say) = _end(one), _end(other)
    assert own.keys() == others.keys()
    assert [name for name, value in own.items() if not torch.equal(value, others[name])] == []
    for task, values in says.probabilities.items():
        assert np.array_equal(values, say.probabilities[task])


@pytest.mark.slow
def test_a_recipe_goes_on_after_kills_and_what_it_averaged_is_the_model(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(_words(finished_run, whole)) == 0
    monkeypatch.setattr(stage_job, "SNAPSHOT_SECONDS", 0.0)
    stopping = [f"--trainer.callbacks+={StopAt.__module__}.StopAt"]
    for step in (3, 12):
        monkeypatch.setattr(StopAt, "step", step)
        with pytest.raises(RuntimeError, match="killed"):
            main([*_words(finished_run, killed), *stopping])
    monkeypatch.setattr(StopAt, "step", None)
    assert main([*_words(finished_run, killed), *stopping]) == 0
    _assert_same(whole, killed)
    # What was written of validation and test images is what the kept network says.
    state, written = _end(whole)
    run = load(whole)
    model = run.model("hard_parameter_sharing")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    rows = np.flatnonzero(np.isin(run.data.dataset.ids, written.ids))
    with torch.no_grad():
        said = model(run.data.images(rows))[0].softmax(1).numpy()
    assert run.data.dataset.ids[rows].tolist() == written.ids.tolist()
    np.testing.assert_allclose(said, written.probabilities["principal"], atol=1e-5)


@pytest.mark.ddp
@pytest.mark.slow
def test_a_recipe_is_the_same_by_workers_and_twice_on_two_ranks(tmp_path: Path, finished_run: Path):
    few, many = tmp_path / "few", tmp_path / "many"
    lazy = ["--data.dataset.class_path=tests.data.lazy.LazyScenes"]
    for folder, workers in ((few, 0), (many, 2)):
        words = _words(finished_run, folder)
        assert main([*words, *lazy, f"--data.num_workers={workers}"]) == 0
    _assert_same(few, many)
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
    for name in ("once", "twice"):
        assert fork_ranks([*_words(finished_run, tmp_path / name), *two]) == [0, 0]
    _assert_same(tmp_path / "once", tmp_path / "twice")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--multitask.model.recipe.ema=2"], "multitask.model.recipe.ema is 2.0: give a share"),
        (["--multitask.data.augment=heavy"], "there is no 'heavy': choose one of light, standard"),
        (["--multitask.model.recipe.mix=1"], "(Recipe) has no setting 'mix': did you mean 'mixup'"),
    ],
)
def test_what_a_recipe_does_not_have(
    words: list[str], said: str, tmp_path: Path, error_line: Callable[[list[str]], str]
):
    chain = ["fit", "--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path / "run")]
    assert said in error_line([*chain, *words])


def test_freeze_without_weights_is_one_line(tmp_path: Path, error_line: Callable[[list[str]], str]):
    chain = ["fit", "--config", str(CONF / "chain.yaml"), "--run_dir", str(tmp_path / "run")]
    said = error_line([*chain, "--multitask.model.freeze=2"])
    assert "freeze is 2, but small_convnet starts from random weights" in said


@pytest.mark.slow
def test_a_fine_tuned_transformer_is_exported_without_its_file(tmp_path: Path, finished_run: Path):
    run_dir = copy_stages(finished_run, tmp_path / "run", "disentangle", "cluster")
    (run_dir / "config.yaml").write_bytes((finished_run / "config.yaml").read_bytes())
    file = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(timm.create_model("test_vit").state_dict(), file)
    words = [
        "--model.backbone=timm/test_vit", f"--model.weights={file}", "--model.size=32",
        "--model.freeze=1", "--model.lr_decay=0.7", "--model.checkpointing=true",
    ]  # fmt: skip
    assert main([*_words(finished_run, run_dir), *words]) == 0
    file.unlink()
    bundle = tmp_path / "bundle"
    assert main(["export", str(run_dir), str(bundle), "--format=pt2"]) == 0
    assert json.loads((bundle / "parity.json").read_text())
    state, _ = _end(run_dir)
    assert state["backbone.maps.net.pos_embed"].shape == (1, 5, 64)  # 2 x 2 patches of 32 pixels
    one = run_dir / "one.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(one)
    asked = [load(bundle), load(run_dir).classifier()]
    answers = [each.predict([one]).probabilities["principal"] for each in asked]
    np.testing.assert_allclose(*answers, atol=1e-5)
