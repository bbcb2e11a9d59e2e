"""Every shipped config of a chain runs whole, on a small file set in the true format."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.cluster import candidates
from detaux_pl.data.datasets.synthetic_shapes3d import SyntheticShapes3D
from detaux_pl.evaluation.run import load
from detaux_pl.multitask.cross_fit import CrossFit
from detaux_pl.pipeline.chain import parse
from tests.cli.conftest import in_process
from tests.data import (
    written,
    written_arrays,
    written_factorials,
    written_mnist_stl10,
    written_shapes3d,
)

CONFIGS = Path(__file__).parents[1] / "configs"
Write = Callable[[Path, pytest.MonkeyPatch], list[str]]

_TINY = """
    --seeds 1 --dataset.cache_dir {cache} --run_dir {run}
    --disentangle.trainer.max_epochs 2 --disentangle.trainer.limit_train_batches 3
    --disentangle.data.batch_size 8
    --disentangle.trainer.accelerator cpu --disentangle.trainer.enable_progress_bar false
    --cluster.clusterer.min_cluster_size 3 --cluster.subspace 1
    --multitask.trainer.max_epochs 1 --multitask.trainer.limit_train_batches 2
    --multitask.data.batch_size 8
    --multitask.trainer.accelerator cpu --multitask.trainer.enable_progress_bar false
"""
_ROW = """
    --disentangle.model.encoder small_convnet --disentangle.data.batch_size 16
    --disentangle.trainer.max_epochs 1 --disentangle.trainer.limit_train_batches 2
    --disentangle.trainer.accelerator cpu --disentangle.trainer.enable_progress_bar false
    --evaluate.tasks ["digit","background"] --until evaluate
"""
_COUNTS = {"n_train": 48, "n_val": 12, "n_test": 12}
_SMALL_RESNET = ["--disentangle.model.dim", "16"]


def _faces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    written.write_faces(folder, n_persons=4)
    # Crops are of 64 x 64.
    return ["--dataset.root", str(folder), *_SMALL_RESNET, "--dataset.image_size", "80"]


def _cars(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    written.write_cars(folder, n_models=3, n_train=20, n_test=8)
    return [
        "--dataset.root", str(folder), *_SMALL_RESNET, "--dataset.image_size", "64",
        "--cluster.pca", "8", "--multitask.model.pretrained", "false",
    ]  # fmt: skip


def _cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    written_arrays.write_cifar10(folder, n_train=60, n_test=20)
    written_arrays.accept_cifar10(monkeypatch, folder)
    return ["--dataset.root", str(folder), *_SMALL_RESNET]


def _svhn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    written_arrays.write_svhn(folder, n_train=60, n_test=20)
    written_arrays.accept_svhn(monkeypatch, folder)
    return ["--dataset.root", str(folder), *_SMALL_RESNET]


def _shapes(**files: str) -> list[str]:
    words = [word for name, n in _COUNTS.items() for word in (f"--dataset.{name}", str(n))]
    return [*words, *(word for name, path in files.items() for word in (f"--dataset.{name}", path))]


def _challenge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    written_factorials.mini_mpi3d(monkeypatch)
    path, _ = written_factorials.write_mpi3d(folder)
    return [*_shapes(path=str(path)), "--multitask.model.backbone", "small_convnet"]


def _shapes3d(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    drawn = SyntheticShapes3D(**_COUNTS, cache_dir=folder / "geometry")
    drawn.setup()
    path = written_shapes3d.write_shapes3d(folder / "3dshapes.h5", drawn)
    return _shapes(path=str(path))


def _synthetic_shapes3d(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return [*_shapes(), "--multitask.model.backbone", "small_convnet"]


def _mnist_stl10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    written_mnist_stl10.write_mnist(folder)
    written_mnist_stl10.write_stl10(folder)
    written_mnist_stl10.accept_stl10(monkeypatch, folder)
    return _shapes(root=str(folder))


def _folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    written.write_class_folders(folder, n=30)
    return ["--dataset.root", str(folder)]


def _table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["--dataset.path", str(written.write_table(folder, n=30))]


def _quickstart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["--dataset.n_train", "200", "--dataset.n_val", "50", "--dataset.n_test", "50"]


_WRITE: dict[str, Write] = {
    "cars": _cars,
    "challenge": _challenge,
    "cifar10": _cifar10,
    "contrastive_quickstart": _quickstart,
    "faces": _faces,
    "folder": _folder,
    "mnist_stl10": _mnist_stl10,
    "quickstart": _quickstart,
    "shapes3d": _shapes3d,
    "showdown": _quickstart,
    "small_shapes3d": lambda folder, monkeypatch: _shapes(),
    "svhn": _svhn,
    "synthetic_shapes3d": _synthetic_shapes3d,
    "table": _table,
}


@pytest.mark.parametrize(
    "name",
    sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "showdown"),
)
def test_a_shipped_chain_runs_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files, run_dir = tmp_path / "files", tmp_path / "run"
    files.mkdir()
    words = _TINY.format(cache=tmp_path / "cache", run=run_dir).split()
    if name in ("contrastive_quickstart", "quickstart", "shapes3d"):  # they have no cache
        del words[2:4]
    if name in ("contrastive_quickstart", "quickstart"):
        # Nothing is learnt in an epoch: whatever was tried is taken, and left as it is.
        monkeypatch.setattr(candidates, "WORTH", -1.0)
        monkeypatch.setattr(candidates, "SURE", 1.1)
        monkeypatch.setattr(CrossFit, "learnability", lambda fit: 1.0)
        words += ["--nets.folds", "2", "--refine.rounds", "0", "--jobs", "1"]
        words += ["--cluster.select.tries", "1"]
    words = ["--config", str(CONFIGS / f"{name}.yaml"), *words, *_WRITE[name](files, monkeypatch)]
    assert main(["data", "check", *words]) in (0, 3)
    assert main(["data", "show", *words]) == 0
    assert run_chain(words, in_process) == 0

    run = load(run_dir)
    data = run.data.dataset
    assert run.codes.ids.tolist() == data.ids.tolist()
    assert run.codes.values.std() > 0
    assert run.labels.n_classes >= 2
    assert {"hard_parameter_sharing", "single_task", "shuffled"} <= set(run.arms)
    assert (run_dir / "report" / "report.html").stat().st_size > 10_000


_BASELINES = """
    [SingleTask, NDDR, MAXL, {class_path: AuxiLearn, init_args: {held_out: 0.2}},
    {class_path: MTINet, init_args: {backbone: hrnet_w18_small}}]
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cars", "cifar10", "faces", "svhn", "showdown"])
def test_a_chain_of_many_arms_runs_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files, run_dir = tmp_path / "files", tmp_path / "run"
    files.mkdir()
    words = _TINY.format(cache=tmp_path / "cache", run=run_dir).split()
    if name == "showdown":
        config = CONFIGS / f"{name}.yaml"
        del words[2:4]  # they have no cache
        words += ["--refine.rounds", "0"]  # nothing is learnt in an epoch
    else:
        config = CONFIGS / "paper" / f"{name}.yaml"
        words += ["--baselines", _BASELINES]
    words = ["--config", str(config), *words, *_WRITE[name](files, monkeypatch)]
    words += ["--discoveries", json.dumps(_small_discoveries(config))]
    assert run_chain(words, in_process) == 0
    assert set(load(run_dir).arms) == set(parse(words).arms)


def _small_discoveries(config: Path) -> dict[str, Any]:
    """The further discoveries of a chain, with less to train and sure to find something."""
    given: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    discoveries: dict[str, Any] = given.get("discoveries", {})
    for name in discoveries:
        found = discoveries[name] = deepcopy(discoveries[name])  # parts may be shared by an alias
        cluster, own = found.setdefault("cluster", {}), found.get("disentangle")
        if isinstance(own, str):
            own = found["disentangle"] = yaml.safe_load((config.parent / own).read_text())
        if own is not None:
            own["trainer"] = {"max_epochs": 1, "limit_train_batches": 2, "accelerator": "cpu"}
            own.setdefault("data", {}).setdefault("init_args", {})["batch_size"] = 8
        whole = ("Autoencoder", "RawPixels")
        alone = own is not None and own["model"]["class_path"] in whole
        cluster.setdefault("subspace", 0 if alone or "codes" in found else 1)
        if "MeanShift" in str(cluster):
            cluster["clusterer"]["init_args"] = {"bandwidth": 1e-3}  # none to estimate
        elif "clusterer" not in cluster:
            cluster["clusterer"] = {"class_path": "KMeans", "init_args": {"n_clusters": 3}}
    return discoveries


@pytest.mark.parametrize(
    "row", ["supervised", "infomin_low", "permuted_orthogonality_hessian", "slice_bound"]
)
def test_a_row_of_the_papers_tables_runs(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    files, run_dir = tmp_path / "files", tmp_path / "run"
    files.mkdir()
    words = ["--config", str(CONFIGS / "mnist_stl10.yaml"), "--run_dir", str(run_dir)]
    words += ["--disentangle", str(CONFIGS / "contrastive" / f"{row}.yaml"), *_ROW.split()]
    assert run_chain([*words, *_mnist_stl10(files, monkeypatch)], in_process) == 0
    run = load(run_dir)
    assert run.codes.values.shape == (144, 2, 8)
    assert set(run.probes["inputs"]) == {"z", "r"}
    assert main(["probes", str(run_dir), "--format", "markdown"]) == 0
    assert f"{100 * run.probes['chance']['digit']:.1f}" in capsys.readouterr().out
