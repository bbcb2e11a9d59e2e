"""Checkpoints: whole on the disk whatever happens, and known to be whole before they are used."""

from __future__ import annotations

import errno
import json
import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detaux_pl import load
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_json, sha256_file, sweep_up, write_json
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.main import main
from detaux_pl.training.checkpoints import WholeCheckpoints
from detaux_pl.training.stage_cli import StageCLI
from tests.children import run_child

Refused = Callable[[list[str]], str]
ARM = "multitask/single_task/seed0"


def _flip(path: Path) -> None:
    """Turn a bit of a weight over, which leaves the file readable."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    content[largest.header_offset + largest.file_size // 2 + 256] ^= 64
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["state_dict"]


def _unfinished(folder: Path) -> None:
    manifest = read_json(folder / "stage.json")
    write_json(folder / "stage.json", {**manifest, "status": "running", "outputs": {}})


def _command(run_dir: Path, stage: str, word: str) -> list[str]:
    config = run_dir / stage / "config.yaml"
    return [stage.split("/")[0], word, "--config", str(config), "--run_dir", str(run_dir)]


def test_every_command_refuses_a_checkpoint_with_a_flipped_bit(error_line: Refused, run_copy: Path):
    last = run_copy / "disentangle" / "checkpoints" / "last.ckpt"
    best = run_copy / ARM / "checkpoints" / "best.ckpt"
    _flip(last)
    _flip(best)
    for stage, word, path in (
        ("disentangle", "test", last),
        ("disentangle", "validate", last),
        ("disentangle", "predict", last),
        (ARM, "test", best),
        (ARM, "validate", best),
    ):
        line = error_line(_command(run_copy, stage, word))
        assert f"{path} was changed after the stage wrote it: restore it, or --redo " in line
    with pytest.raises(ArtifactError, match=r"last\.ckpt was changed"):
        _ = load(run_copy).disentangler
    with pytest.raises(ArtifactError, match=r"best\.ckpt was changed"):
        load(run_copy).model("single_task")


def test_an_unfinished_stage_does_not_go_on_from_a_flipped_bit(error_line: Refused, run_copy: Path):
    for stage in ("disentangle", ARM):
        path = run_copy / stage / "checkpoints" / "last.ckpt"
        _unfinished(run_copy / stage)
        if not path.exists():  # it is removed when the arm is complete
            path.write_bytes(path.with_name("best.ckpt").read_bytes())
        _flip(path)
        line = error_line(_command(run_copy, stage, "fit"))
        assert f"{path} cannot be read as a checkpoint (BadZipFile): delete it to begin" in line


@pytest.mark.parametrize("content", ["code", "no weights", "text"])
def test_a_forged_checkpoint_is_told_in_one_line(error_line: Refused, run_copy: Path, content: str):
    """Its digest in the manifest is right: only what it holds is not."""
    folder = run_copy / ARM
    path = folder / "checkpoints" / "best.ckpt"
    if content == "text":
        path.write_text("weights")
    else:
        torch.save({"state_dict": Refused} if content == "code" else [1, 2], path)
    manifest = read_json(folder / "stage.json")
    manifest["outputs"]["checkpoints/best.ckpt"] = sha256_file(path)
    write_json(folder / "stage.json", manifest)
    line = error_line(_command(run_copy, ARM, "test"))
    assert f"{path} cannot be read as a checkpoint (" in line
    assert "--redo multitask makes the stage again." in line
    with pytest.raises(ArtifactError, match="cannot be read as a checkpoint"):
        load(run_copy).model("single_task")


def test_weights_of_another_model_are_told_in_one_line(error_line: Refused, run_copy: Path):
    line = error_line(
        [*_command(run_copy, ARM, "test"), "--model.backbone=small_convnet", "--model.hidden=7"]
    )
    assert "best.ckpt holds the weights of another model than the settings say" in line


def test_a_checkpoint_replaces_the_one_before_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = StageFolder(tmp_path, "disentangle")
    path = folder.path / "checkpoints" / "last.ckpt"
    checkpoints = WholeCheckpoints(folder)
    checkpoints.save_checkpoint({"state_dict": {"a": torch.ones(3)}}, path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        checkpoints.save_checkpoint({"state_dict": {"a": torch.zeros(3)}}, path)
    assert error.value.filename == str(path)
    monkeypatch.undo()
    assert checkpoints.load_checkpoint(path)["state_dict"]["a"].tolist() == [1, 1, 1]
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]


def test_the_content_does_not_depend_on_the_name(tmp_path: Path):
    checkpoints = WholeCheckpoints(StageFolder(tmp_path, "disentangle"))
    for name in ("last", "best"):
        checkpoints.save_checkpoint({"state_dict": {"a": torch.ones(3)}}, tmp_path / name)
    assert sha256_file(tmp_path / "last") == sha256_file(tmp_path / "best")


def _kill_in_the_writing(folder: Path, path: Path) -> None:
    os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
    checkpoints = WholeCheckpoints(StageFolder(folder, "disentangle"))
    checkpoints.save_checkpoint({"state_dict": {"a": torch.zeros(3)}}, path)


def test_a_kill_in_the_writing_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = StageFolder(tmp_path, "disentangle")
    path = folder.path / "checkpoints" / "last.ckpt"
    checkpoints = WholeCheckpoints(folder)
    checkpoints.save_checkpoint({"state_dict": {"a": torch.ones(3)}}, path)
    # Where the folder for temporary files lies does not matter: nothing is written there.
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    assert run_child(_kill_in_the_writing, tmp_path, path) == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 2
    assert checkpoints.load_checkpoint(path)["state_dict"]["a"].tolist() == [1, 1, 1]
    sweep_up(tmp_path)
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("plugin", [False, True])
def test_the_trainer_writes_them_so_unless_the_user_has_a_way_of_his_own(
    run_copy: Path, plugin: bool
):
    more = ["--trainer.plugins=AsyncCheckpointIO"] if plugin else []
    cli = StageCLI("multitask", [*_command(run_copy, ARM, "fit")[2:], *more])
    trainer = cli.trainer_for(StageFolder(run_copy, ARM), [], [])
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpoints) is not plugin


def test_manifests_vouch_for_what_the_arms_say(run_copy: Path, error_line: Refused):
    path = run_copy / ARM / "test.json"
    path.write_text(json.dumps({**read_json(path), "test/accuracy/principal": 1.0}))
    assert "test.json was changed after" in error_line(["compare", str(run_copy)])
    assert "test.json was changed after" in error_line(["report", "--run_dir", str(run_copy)])


@pytest.mark.parametrize("stage", ["disentangle", ARM])
def test_killed_when_weights_alone_are_kept_a_stage_goes_on_to_the_same_end(
    run_copy: Path, stage: str, monkeypatch: pytest.MonkeyPatch
):
    """The last moment before a stage is complete: its training is done, its manifest is not."""
    before = read_json(run_copy / stage / "stage.json")["outputs"]

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StageFolder, "finish", killed)
        assert main([*_command(run_copy, stage, "fit"), f"--redo={stage.split('/')[0]}"]) == 130
    assert read_json(run_copy / stage / "stage.json")["status"] == "running"
    assert main(_command(run_copy, stage, "fit")) == 0
    after = read_json(run_copy / stage / "stage.json")["outputs"]
    same = before.keys() - {"config.yaml", "cost.json", "metrics.csv"}
    assert same
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    kept = [path.name for path in (run_copy / stage / "checkpoints").iterdir()]
    assert kept == ["last.ckpt" if stage == "disentangle" else "best.ckpt"]


def test_an_arm_that_keeps_no_weights_has_the_figures_of_one_that_does(
    run_copy: Path, error_line: Refused
):
    before = read_json(run_copy / ARM / "stage.json")["outputs"]
    command = [*_command(run_copy, ARM, "fit"), "--keep_weights=false"]
    assert main(command) == 0  # it is complete, and what it kept stays
    assert load(run_copy).model("single_task")
    assert main([*command, "--redo=multitask"]) == 0
    after = read_json(run_copy / ARM / "stage.json")["outputs"]
    assert before.keys() - after.keys() == {"checkpoints/best.ckpt"}
    for name in ("predictions.npz", "test.json", "classifier.json"):
        assert after[name] == before[name]
    assert not (run_copy / ARM / "checkpoints").exists()
    line = "kept its figures and no weights, as controls do: list the arm among --baselines"
    assert line in error_line(_command(run_copy, ARM, "test"))
    with pytest.raises(ArtifactError, match="kept its figures and no weights"):
        load(run_copy).classifier("single_task")
