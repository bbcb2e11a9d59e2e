"""Two ranks on the CPU: disentangle, predict and multitask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.cli.main import main
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import PairDataModule
from tests.ranks import fork_ranks

TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]


def _detaux(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "detaux_pl", *words], check=False, timeout=240)
    assert done.returncode == 0


TRAIN = """
import json, sys
from pathlib import Path
import torch
from lightning import LightningModule, Trainer, seed_everything
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import PairDataModule
from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from tests.ranks import end_group

folder = Path(sys.argv[1])

class Recorded(ProductManifoldAutoencoder):
    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        rows.append([self.current_epoch, batch_idx, batch.rows.tolist()])

    def on_train_batch_end(self, *args):
        if self.global_step == 8:
            self.trainer.save_checkpoint(folder / "step8.ckpt")

for resumed in (False, True):
    seed_everything(1)
    rows = []
    data = PairDataModule(DigitScenes(n_train=50, n_val=20, n_test=8), batch_size=4, seed=3)
    model = Recorded((3, 16, 16), dim=4, n_subspaces=3, lr_schedule="cosine")
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, default_root_dir=folder,
    )
    trainer.fit(model, datamodule=data, ckpt_path=folder / "step8.ckpt" if resumed else None)
    weights = [parameter.double().sum().item() for parameter in model.parameters()]
    result = {"rows": rows, "weights": weights}
    name = f"{trainer.global_rank}-{resumed}.json"
    (folder / name).write_text(json.dumps(result))
end_group()
"""


@pytest.mark.ddp
def test_two_ranks_see_the_sequence_of_one_and_resume_it_in_mid_epoch(tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], check=False, timeout=240)
    assert done.returncode == 0
    whole, resumed = (
        [json.loads((tmp_path / f"{rank}-{resumed}.json").read_text()) for rank in range(2)]
        for resumed in (False, True)
    )
    # One rank with twice the batch: 6 steps of 8 pairs in each of 2 epochs.
    alone = PairDataModule(DigitScenes(n_train=50, n_val=20, n_test=8), batch_size=8, seed=3)
    alone.setup("fit")
    loader: Any = alone.train_dataloader()
    expected = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        expected += [[epoch, k, batch.rows.tolist()] for k, batch in enumerate(loader)]
    assert len(expected) == 12
    for run, steps in ((whole, expected), (resumed, expected[8:])):
        joined = [
            [epoch, k, [x + y for x, y in zip(rows, others, strict=True)]]
            for (epoch, k, rows), (_, _, others) in zip(run[0]["rows"], run[1]["rows"], strict=True)
        ]
        assert joined == steps
    for rank in range(2):
        assert resumed[rank]["weights"] == whole[rank]["weights"]


@pytest.mark.ddp
def test_two_ranks_write_every_sample_once(tmp_path: Path, finished_run: Path):
    stages = {stage: str(finished_run / stage / "config.yaml") for stage in ("disentangle",)}
    own = ["--run_dir", str(tmp_path), *TWO]
    # Lightning starts the second rank of the first command, and torchrun would those of the others.
    _detaux("disentangle", "fit", "--config", stages["disentangle"], *own)
    assert fork_ranks(["disentangle", "predict", "--config", stages["disentangle"], *own]) == [0, 0]
    shards = sorted((tmp_path / "disentangle" / "codes").glob("rank*"))
    assert [shard.name for shard in shards] == ["rank0", "rank1"]
    assert [len(np.load(shard / "ids.npy")) for shard in shards] == [192, 192]
    codes = Codes.load(tmp_path / "disentangle" / "codes")
    assert codes.ids.tolist() == list(range(384))
    assert len(list((tmp_path / "disentangle" / "checkpoints").iterdir())) == 1

    assert main(["cluster", "--config", str(finished_run / "cluster/config.yaml"), *own[:2]]) == 0
    assert AuxiliaryLabels.load(tmp_path / "cluster").ids.tolist() == codes.ids.tolist()

    arm = "multitask/hard_parameter_sharing/seed0"
    words = ["multitask", "fit", "--config", str(finished_run / arm / "config.yaml"), *own]
    assert fork_ranks(words) == [0, 0]
    tested = json.loads((tmp_path / arm / "test.json").read_text())
    # 64 test images, counted once each: the accuracy is a whole number of 64ths.
    assert tested["test/accuracy/principal"] * 64 == pytest.approx(
        round(tested["test/accuracy/principal"] * 64), abs=1e-4
    )
    assert (tmp_path / arm / "stage.json").is_file()
    kept = Predictions.load(tmp_path / arm / "predictions.npz", "again")
    held_out = [row for split in ("val", "test") for row in codes.rows(split)]
    assert kept.ids.tolist() == codes.ids[held_out].tolist()
    test = kept.of("test")
    right = test.probabilities["principal"].argmax(axis=1) == test.target("principal")
    assert tested["test/accuracy/principal"] == pytest.approx(right.mean(), abs=1e-6)
    assert not list((tmp_path / arm).glob("predictions.rank*"))
