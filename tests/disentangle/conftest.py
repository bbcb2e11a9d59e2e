from functools import partial

import pytest
from lightning import Trainer, seed_everything

from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import PairDataModule
from detaux_pl.data.noise import SaltPepper


@pytest.fixture(autouse=True)
def _single_seed(monkeypatch):
    """Seed the run, and take the seed out of the environment again."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    seed_everything(0, verbose=False)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    """Leave the user's caches alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def scenes():
    dataset = DigitScenes(n_train=96, n_val=32, n_test=32, n_locations=4, n_backgrounds=4)
    dataset.setup()
    return dataset


@pytest.fixture
def pairs(scenes):
    return PairDataModule(scenes, noise=SaltPepper(0.05), batch_size=16)


@pytest.fixture
def make_trainer(tmp_path):
    return partial(
        Trainer,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
