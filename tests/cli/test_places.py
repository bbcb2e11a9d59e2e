"""Data and run folders that are moved: places are no results, and the newest given ones count."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detaux_pl import load
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import read_json
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from tests.cli.conftest import CONF, in_process

pytestmark = [pytest.mark.filterwarnings("ignore:.*suggested max number of worker.*")]
Refused = Callable[[list[str]], str]
ARM = "multitask/hard_parameter_sharing/seed0"


def _write_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split, n in (("train", 32), ("val", 8), ("test", 8)):
        for name, level in (("dark", 60), ("bright", 190)):
            (root / split / name).mkdir(parents=True)
            for k in range(n):
                pixels = rng.integers(level - 40, level + 40, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{k}.png")


def _fit(run_dir: Path, *args: str) -> int:
    words = ["--config", str(CONF / "chain.yaml"), "--run_dir", str(run_dir), "--seeds=1"]
    words += ["--dataset=ImageFolder", "--dataset.image_size=16", "--cluster.subspace=1"]
    words += ["--disentangle.trainer.max_epochs=1", "--multitask.trainer.max_epochs=1"]
    words += ["--cluster.clusterer=KMeans", "--cluster.clusterer.n_clusters=3", "--noise=null"]
    words += ["--evaluate.metrics=[]", "--baselines=[]", "--controls=[]"]
    return run_chain([*words, *args], in_process)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder of images, up to its clusters; beside it the images."""
    here = tmp_path_factory.mktemp("places")
    _write_images(here / "old")
    assert _fit(here / "run", f"--dataset.root={here / 'old'}", "--until=cluster") == 0
    return here


@pytest.fixture
def here(begun: Path, tmp_path: Path) -> Path:
    """The same of the test's own, with the images moved."""
    shutil.copytree(begun / "run", tmp_path / "run")
    shutil.copytree(begun / "old", tmp_path / "new")
    (begun / "old").rename(begun / "away")
    return tmp_path


@pytest.fixture(autouse=True)
def put_back(begun: Path):
    yield
    if (begun / "away").is_dir():
        (begun / "away").rename(begun / "old")


def test_the_newest_place_counts(begun: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(here)
    run, new = here / "run", here / "new"
    assert not (run / "places.json").exists()
    words = ["disentangle", "validate", "--config", str(run / "disentangle" / "config.yaml")]
    assert main([*words, f"--data.dataset.root={new}"]) == 0
    assert read_json(run / "places.json")["root"] == str(new)
    assert main(words) == 0
    assert load(run).data.dataset.root == new
    new.rename(here / "newer")
    assert load(run, root=here / "newer").data.dataset.root == here / "newer"
    assert not (here / "None").exists()  # a place that is not given is no text


@pytest.mark.slow
def test_the_newest_place_counts_in_every_command(
    begun: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    run, new = here / "run", here / "new"
    assert _fit(run, f"--dataset.root={new}") == 0
    assert read_json(run / "places.json")["root"] == str(new)
    assert (run / "report" / "report.html").is_file()
    assert load(run).data.dataset.root == new
    config = str(run / "disentangle" / "config.yaml")
    assert str(begun / "old") in Path(config).read_text()  # what was recorded stays as it was
    assert main(["disentangle", "validate", "--config", config]) == 0
    assert main(["report", "--run_dir", str(run)]) == 0
    assert run_chain(["--run_dir", str(run), "--seeds=2"], in_process) == 0
    capsys.readouterr()
    # Moved once more: each of the commands takes the new place, and all others have it then.
    newer = here / "newer"
    new.rename(newer)
    arm = str(run / ARM / "config.yaml")
    assert main(["multitask", "test", "--config", arm, f"--data.dataset.root={newer}"]) == 0
    assert main(["report", "--run_dir", str(run)]) == 0
    assert read_json(run / "places.json")["root"] == str(newer)
    newest = here / "newest"
    newer.rename(newest)
    assert main(["report", "--run_dir", str(run), f"--dataset.root={newest}"]) == 0
    assert main(["disentangle", "test", "--config", config]) == 0
    newest.rename(new)
    assert load(run, root=new).data.dataset.root == new


def test_a_place_that_does_not_fit_is_told(begun: Path, here: Path, error_line: Refused):
    run, new = here / "run", here / "new"
    with pytest.raises(UserError, match="old"):
        _ = load(run).data
    with pytest.raises(UserError, match="path is given as 'x', but ImageFolder has no such place"):
        _ = load(run, path="x").data
    Image.new("RGB", (16, 16)).save(new / "train" / "dark" / "0.png")
    with pytest.raises(UserError, match="the data files have changed"):
        _ = load(run, root=new).data
    config = str(run / "disentangle" / "config.yaml")
    words = ["disentangle", "validate", "--config", config]
    assert "the data files have changed" in error_line([*words, f"--data.dataset.root={new}"])
    assert not (run / "places.json").exists()
    (run / "places.json").write_text('{"root": 1}')
    line = error_line(words)
    assert "places.json is damaged, root is 1, not text or null: delete it" in line


def test_a_copied_run_is_the_run(run_copy: Path, finished_run: Path, error_line: Refused):
    """The configs in it name the folder that it was copied from, which may be gone, or not."""
    best = run_copy / ARM / "checkpoints" / "best.ckpt"
    best.unlink()
    for words in (
        ["multitask", "test", "--config", str(run_copy / ARM / "config.yaml")],
        ["multitask", "validate", f"--config={run_copy / ARM / 'config.yaml'}"],
    ):
        assert f"{best} is missing" in error_line(words)
    for stage in ("evaluate", "cluster"):
        (run_copy / "disentangle" / "codes" / "rank0" / "ids.npy").write_bytes(b"")
        line = error_line([stage, "--config", str(run_copy / stage / "config.yaml")])
        assert str(run_copy / "disentangle" / "codes") in line
    # The command line counts more than where the config lies.
    arm = ["multitask", "test", "--config", str(run_copy / ARM / "config.yaml")]
    assert main([*arm, "--run_dir", str(finished_run)]) == 0


def test_a_copied_chain_goes_on_in_the_copy(run_copy: Path, finished_run: Path):
    shutil.rmtree(run_copy / "cluster")
    words = ["--config", str(run_copy / "config.yaml"), "--until=cluster"]
    assert run_chain(words, in_process) == 0
    for name in ("labels.npz", "labels.json"):
        copied, first = (run / "cluster" / name for run in (run_copy, finished_run))
        assert copied.read_bytes() == first.read_bytes()
