"""A training whose loss or weights are not finite: said at once, marked, and not gone on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.main import main
from detaux_pl.training import stage_job
from tests.cli.conftest import fit

Refused = Callable[[list[str]], str]
SCENES = ["--data.dataset=DigitScenes", "--data.dataset.n_train=64", "--data.dataset.n_val=32"]
SCENES += ["--data.dataset.n_test=32", "--trainer.accelerator=cpu", "--trainer.max_epochs=2"]
SCENES += ["--trainer.enable_progress_bar=false"]


def disentangle(run_dir: Path, model: str, *args: str) -> list[str]:
    return ["disentangle", "fit", f"--run_dir={run_dir}", f"--model={model}", *SCENES, *args]


@pytest.mark.parametrize(
    "model",
    ["Autoencoder", "ResidualAutoencoder", "ProductManifoldAutoencoder", "BetaVAE", "FactorVAE"],
)
def test_a_disentangler_that_diverges_says_so_at_once(model, tmp_path, error_line: Refused):
    line = error_line(disentangle(tmp_path, model, "--model.lr=1e30"))
    assert line.startswith(
        "error: disentangle: the training diverged, its loss is not finite since"
    )
    assert "since step 2 (epoch 0): lower the learning rate (lr is 1e+30" in line
    assert line.endswith("or clip its gradients (trainer.gradient_clip_val).")
    assert not (tmp_path / "disentangle/checkpoints").exists()
    assert StageFolder(tmp_path, "disentangle").diverged["step"] == 2


def test_what_diverged_is_not_tried_again_unasked_and_gives_way_to_other_settings(
    tmp_path, error_line: Refused
):
    wild, calm = (disentangle(tmp_path, "Autoencoder", f"--model.lr={lr}") for lr in ("1e30", 1e-3))
    first = error_line(wild)
    assert error_line(wild).startswith(first)
    assert "--redo disentangle tries the same once more" in error_line(wild)
    assert error_line([*wild, "--redo=disentangle"]) == first
    assert main(calm) == 0
    assert StageFolder(tmp_path, "disentangle").complete


def test_a_checkpoint_with_weights_that_are_not_finite_is_not_gone_on_from(
    tmp_path, error_line: Refused, monkeypatch: pytest.MonkeyPatch
):
    words = disentangle(tmp_path, "Autoencoder")
    # As a training leaves it that was killed after its last epoch.
    monkeypatch.setattr(stage_job, "keep_weights", lambda *args: None)
    assert main(words) == 0
    last = tmp_path / "disentangle/checkpoints/last.ckpt"
    saved = torch.load(last, weights_only=True)
    next(iter(saved["state_dict"].values())).view(-1)[0] = torch.nan
    torch.save(saved, last)
    manifest = tmp_path / "disentangle/stage.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"status": "running"}))
    assert "diverged, its weights are not finite: lower" in error_line(words)
    assert StageFolder(tmp_path, "disentangle").diverged is not None


def test_codes_that_are_not_finite_are_not_written(tmp_path, monkeypatch, error_line: Refused):
    words = disentangle(tmp_path, "Autoencoder")
    assert main(words) == 0
    from detaux_pl.disentangle.autoencoder import Autoencoder

    encode = Autoencoder.encode
    monkeypatch.setattr(Autoencoder, "encode", lambda self, images: encode(self, images) / 0)
    line = error_line([words[0], "predict", *words[2:]])
    assert "code of images holds NaN or infinite values" in line
    monkeypatch.undo()
    assert main([words[0], "predict", *words[2:], "--redo=disentangle"]) == 0
    assert np.isfinite(Codes.load(tmp_path / "disentangle/codes").values).all()


@pytest.mark.slow
def test_an_arm_that_diverges_is_marked_and_the_others_go_on(run_copy, capsys):
    wild = "{name: wild, class_path: SingleTask, init_args: {lr: 1.0e+30}}"
    maxl = "{class_path: MAXL, init_args: {meta_lr: 1.0e+30}}"
    assert fit(run_copy, "--baselines", f"[SingleTask, {wild}, {maxl}]") == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    told = {line.split(": ")[1]: line for line in lines}
    arms = ["maxl/seed0", "maxl/seed1", "wild/seed0", "wild/seed1"]
    assert sorted(told) == [f"multitask/{arm}" for arm in arms]
    assert told["multitask/maxl/seed0"].endswith("(lr is 0.0005, meta_lr is 1e+30).")  # no clipping
    arms = json.loads((run_copy / "report/report.json").read_text())["arms"]
    assert arms["wild"]["diverged_seeds"] == arms["maxl"]["missing_seeds"] == [0, 1]
    assert arms["wild"]["accuracy_mean"] is None
    assert "diverged_seeds" not in arms["single_task"]
    assert len(arms["hard_parameter_sharing"]["accuracies"]) == 2
    assert "diverged" in out
    assert "did not finish" not in out
    page = (run_copy / "report/report.html").read_text()
    assert "without 0 (diverged), 1 (diverged)" in page
    assert "Did not finish: wild (seed 0 (diverged), 1 (diverged))" in page
    assert main(["compare", str(run_copy)]) == 0
    assert "maxl seed 0 (diverged)" in capsys.readouterr().err
    assert fit(run_copy, "--baselines", "[SingleTask]") == 0  # without them


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_nets_that_diverge_end_the_stage_in_one_line(run_copy, capfd, jobs):
    args = ("--refine.rounds=1", "--multitask.model.lr=1e30", f"--jobs={jobs}", "--redo=multitask")
    assert fit(run_copy, *args) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    (line,) = errors
    assert line.startswith("error: refine, tasks, round0-without-")
    assert "net: the training diverged, its loss is not finite since step 2 (epoch 0)" in line
    assert StageFolder(run_copy, "refine").diverged["epoch"] == 0
