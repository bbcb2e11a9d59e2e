"""Every shipped config of a chain runs whole, on a small file set in the true format."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from detaux_pl.cli import data, fit
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.cluster import candidates
from detaux_pl.inference.run import load
from detaux_pl.multitask.cross_fit import CrossFit
from detaux_pl.pipeline.chain import parse
from detaux_pl.settings.build import constructor_defaults
from tests.cli.conftest import in_process
from tests.found import ROOT, configs, dataset_of, written

CONFIGS = ROOT / "configs"
MANY = ["shortcut", "showdown"]
"""Chains of many arms."""

_TINY = """
    --seeds 1 --run_dir {run}
    --disentangle.trainer.max_epochs 2 --disentangle.trainer.limit_train_batches 3
    --disentangle.data.batch_size 8
    --disentangle.trainer.accelerator cpu --disentangle.trainer.enable_progress_bar false
    --cluster.subspace 1
    --multitask.trainer.max_epochs 1 --multitask.trainer.limit_train_batches 2
    --multitask.data.batch_size 4
    --multitask.trainer.accelerator cpu --multitask.trainer.enable_progress_bar false
"""
_QUICK = ("quickstart", "table")
"""A chain that trains all and one of frozen features are fast tests."""
_ROW = """
    --disentangle.model.encoder small_convnet --disentangle.data.batch_size 16
    --disentangle.trainer.max_epochs 1 --disentangle.trainer.limit_train_batches 2
    --disentangle.trainer.accelerator cpu --disentangle.trainer.enable_progress_bar false
    --evaluate.tasks ["digit"] --until evaluate
"""


def _words(config: Path, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for a small file set of a config's data set, and for less of all else."""
    given: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    cls = dataset_of(given)
    folder.mkdir()
    words = []
    for name, value in written(cls, folder, monkeypatch).items():
        words += [f"--dataset.{name}", value if isinstance(value, str) else json.dumps(value)]
    if "cache_dir" in constructor_defaults(cls):
        words += ["--dataset.cache_dir", str(cache)]
    if config.stem != "quickstart":  # all that there are take longest of all stages
        words += ["--evaluate.metrics", "[]"]
    disentangler = given.get("disentangle", {})
    if not isinstance(disentangler, str) and _own(disentangler).get("dim", 0) > 64:
        words += ["--disentangle.model.dim", "16"]
    cluster = given.get("cluster", {})
    if "pca" in cluster:
        words += ["--cluster.pca", "8"]
    if cluster.get("clusterer", {}).get("class_path", "HDBSCAN") == "HDBSCAN":
        words += ["--cluster.clusterer.min_cluster_size", "3"]
    if "erase" in cluster:
        for stage in ("disentangle", "multitask"):
            words += [f"--{stage}.model.model", "timm/test_resnet", f"--{stage}.model.size", "32"]
            words += [f"--{stage}.model.pretrained", "false"]
        words += ["--cluster.erase.clusterers", "[{class_path: Ward, init_args: {n_clusters: 2}}]"]
        return words
    backbone = _own(given.get("multitask", {})).get("backbone")
    if backbone is not None and config.stem != _first_with(backbone):
        words += ["--multitask.model.backbone", "small_convnet"]
    if _own(given.get("multitask", {})).get("pretrained"):
        words += ["--multitask.model.pretrained", "false"]
    return words


def _first_with(backbone: str) -> str:
    """Name of the first chain of a backbone: one of each is trained, which takes much longer."""
    chains = {path.stem: given for path, given in configs().items() if path.parent == Path()}
    stages = {name: given.get("multitask", {}) for name, given in chains.items()}
    backbones = {name: _own(own) for name, own in stages.items() if isinstance(own, dict)}
    return next(name for name, own in backbones.items() if own.get("backbone") == backbone)


def _own(stage: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the model of a stage."""
    arguments: dict[str, Any] = stage.get("model", {}).get("init_args", {})
    return arguments


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in _QUICK else [pytest.mark.slow])
        for name in sorted(path.stem for path in CONFIGS.glob("*.yaml"))
        if name not in MANY
    ],
)
def test_a_shipped_chain_runs_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, run_dir = CONFIGS / f"{name}.yaml", tmp_path / "run"
    words = ["--config", str(config), *_TINY.format(run=run_dir).split()]
    words += _words(config, tmp_path / "files", tmp_path / "cache", monkeypatch)
    if "select" in yaml.safe_load(config.read_text(encoding="utf-8")).get("cluster", {}):
        # Nothing is learnt in an epoch: whatever was tried is taken, and left as it is.
        monkeypatch.setattr(candidates, "WORTH", -1.0)
        monkeypatch.setattr(candidates, "SURE", 1.1)
        monkeypatch.setattr(CrossFit, "learnability", lambda fit: 1.0)
        words += ["--nets.folds", "2", "--refine.rounds", "0", "--jobs", "1"]
        words += ["--cluster.select.tries", "1"]
    # The same words each time, which take longer to parse than to look at.
    parsed = parse(words)
    for command in (fit, data):
        monkeypatch.setattr(command, "parse", lambda _: parsed)
    assert main(["data", "check", *words]) in (0, 3)
    assert main(["data", "show", *words]) == 0
    assert run_chain(words, in_process) == 0

    run = load(run_dir)
    assert run.codes.ids.tolist() == run.data.dataset.ids.tolist()
    assert run.codes.values.std() > 0
    assert run.labels.n_classes >= 2
    arms = {"hard_parameter_sharing", "single_task", "shuffled"}
    if "erase" in yaml.safe_load(config.read_text(encoding="utf-8")).get("cluster", {}):
        arms = {"erasing_classifier", "frozen_classifier", "nearest_neighbors", "shuffled"}
    assert arms <= set(run.arms)
    assert (run_dir / "report" / "report.html").stat().st_size > 10_000


_BASELINES = """
    [SingleTask, NDDR, MAXL, {class_path: AuxiLearn, init_args: {held_out: 0.2}},
    {class_path: MTINet, init_args: {backbone: hrnet_w18_small}}]
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cars", "cifar10", "faces", "svhn", *MANY])
def test_a_chain_of_many_arms_runs_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = CONFIGS / ("." if name in MANY else "paper") / f"{name}.yaml"
    words = ["--config", str(config), *_TINY.format(run=tmp_path / "run").split()]
    words += _words(config, tmp_path / "files", tmp_path / "cache", monkeypatch)
    # Nothing is learnt in an epoch: there is nothing to refine.
    words += ["--refine.rounds", "0"] if name in MANY else ["--baselines", _BASELINES]
    words += ["--discoveries", json.dumps(_small_discoveries(config))]
    assert run_chain(words, in_process) == 0
    assert set(load(tmp_path / "run").arms) == set(parse(words).arms)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", ["supervised", "infomin_low", "permuted_orthogonality_hessian", "slice_bound"]
)
def test_a_row_of_the_papers_tables_runs(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config, run_dir = CONFIGS / "mnist_stl10.yaml", tmp_path / "run"
    words = ["--config", str(config), "--run_dir", str(run_dir)]
    words += ["--disentangle", str(CONFIGS / "contrastive" / f"{row}.yaml"), *_ROW.split()]
    words += _words(config, tmp_path / "files", tmp_path / "cache", monkeypatch)
    assert run_chain(words, in_process) == 0
    run = load(run_dir)
    assert run.codes.values.shape == (144, 2, 8)
    assert set(run.probes["inputs"]) == {"z", "r"}
    assert main(["probes", str(run_dir), "--format", "markdown"]) == 0
    assert f"{100 * run.probes['chance']['digit']:.1f}" in capsys.readouterr().out
