"""Two ranks on the CPU: disentangle, predict and multitask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.labels import AuxiliaryLabels

TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]


def _detaux(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "detaux_pl", *words], check=False, timeout=240)
    assert done.returncode == 0


@pytest.mark.ddp
def test_two_ranks_write_every_sample_once(tmp_path: Path, finished_run: Path):
    stages = {stage: str(finished_run / stage / "config.yaml") for stage in ("disentangle",)}
    own = ["--run_dir", str(tmp_path), *TWO]
    _detaux("disentangle", "fit", "--config", stages["disentangle"], *own)
    _detaux("disentangle", "predict", "--config", stages["disentangle"], *own)
    shards = sorted((tmp_path / "disentangle" / "codes").glob("rank*"))
    assert [shard.name for shard in shards] == ["rank0", "rank1"]
    assert [len(np.load(shard / "ids.npy")) for shard in shards] == [192, 192]
    codes = Codes.load(tmp_path / "disentangle" / "codes")
    assert codes.ids.tolist() == list(range(384))
    assert len(list((tmp_path / "disentangle" / "checkpoints").iterdir())) == 1

    _detaux("cluster", "--config", str(finished_run / "cluster/config.yaml"), *own[:2])
    assert AuxiliaryLabels.load(tmp_path / "cluster").ids.tolist() == codes.ids.tolist()

    arm = "multitask/hard_parameter_sharing/seed0"
    _detaux("multitask", "fit", "--config", str(finished_run / arm / "config.yaml"), *own)
    tested = json.loads((tmp_path / arm / "test.json").read_text())
    # 64 test images, counted once each: the accuracy is a whole number of 64ths.
    assert tested["test/accuracy/principal"] * 64 == pytest.approx(
        round(tested["test/accuracy/principal"] * 64), abs=1e-4
    )
    assert (tmp_path / arm / "stage.json").is_file()
