"""W&B, offline: one run per stage, grouped by the run, inside the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detaux_pl.cli.main import main
from detaux_pl.training import tracking


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_stage_is_one_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    words = [
        "disentangle", "fit", "--run_dir", str(tmp_path / "tracked"),
        "--model=ResidualAutoencoder", "--data.dataset=DigitScenes", "--data.dataset.n_train=64",
        "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--tracking.wandb=offline",
    ]  # fmt: skip
    assert main(words) == 0
    run_dir = tmp_path / "tracked"
    runs = list((run_dir / "wandb").rglob("offline-run-*"))
    wandb_id = json.loads((run_dir / "disentangle" / "stage.json").read_text())["wandb_id"]
    assert [path.name.endswith(wandb_id) for path in runs if path.is_dir()] == [True]
    assert (run_dir / "disentangle" / "metrics.csv").is_file()


def test_without_a_key_or_a_terminal_tracking_is_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not tracking.has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key")
    assert tracking.has_key()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert tracking.has_key()
