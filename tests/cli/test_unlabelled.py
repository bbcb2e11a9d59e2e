"""Images without a label: material for clusters, through a whole chain, and nothing else."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detaux_pl.artifacts.codes import LABELLED, UNLABELLED, Codes
from detaux_pl.artifacts.files import read_json
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.artifacts.predictions import Predictions
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cli.main import main
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.datasets.image_folder import ImageFolder
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.inference.run import load
from tests.cli.conftest import CONF, in_process

Refused = Callable[[list[str]], str]
N, MORE = 160, 60
"""Images with a label, and without."""


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder per class, and one without labels; and a table of all of them."""
    root = tmp_path_factory.mktemp("photos")
    scenes = DigitScenes(n_train=N + MORE, n_val=1, n_test=1, n_backgrounds=3, n_locations=4)
    scenes.setup()
    assert scenes.pixels is not None
    rows = [["image", "digit", "place"]]
    for row in range(N + MORE):
        digit, _, place = scenes.factors[row]
        label = ["low", "high"][int(digit) // 5] if row < N else ""
        folder = root / "images" / (label or UNLABELLED)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scenes.pixels[row].permute(1, 2, 0).numpy()).save(folder / f"{row:03}.png")
        # Of some without a label the place is known.
        rows.append([f"{folder.name}/{row:03}.png", label, "" if row % 2 and not label else place])
    with (root / "images" / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root / "images"


def _words(folder: Path, kind: str, *args: str, **given: Any) -> list[str]:
    settings = yaml.safe_load((CONF / "chain.yaml").read_text())
    given = {"image_size": 16, "cache_dir": str(folder / "cache"), **given}
    settings["dataset"] = {"class_path": kind, "init_args": given}
    settings["cluster"]["clusterer"] = {"class_path": "KMeans", "init_args": {"n_clusters": 4}}
    for stage in ("disentangle", "multitask"):
        settings[stage]["data"] = {"init_args": {"batch_size": 8}}
        settings[stage]["trainer"] |= {"max_epochs": 1}
    folder.mkdir(exist_ok=True)
    path = folder / "chain.yaml"
    path.write_text(yaml.safe_dump(settings))
    run = ["--run_dir", str(folder / "run"), "--seeds", "1", "--cluster.subspace", "1"]
    return ["--config", str(path), *run, *args]


@pytest.fixture(scope="session")
def folder_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished chain on the folder, refined, with the unlabelled ones."""
    folder = tmp_path_factory.mktemp("folder")
    words = _words(folder, "ImageFolder", root=str(photos), unlabelled=UNLABELLED)
    assert run_chain([*words, "--refine.rounds", "1"], in_process) == 0
    return folder / "run"


@pytest.mark.slow
def test_a_chain_on_a_folder_finds_clusters_among_them_and_leaves_them_out_of_all_else(
    folder_run: Path,
):
    codes = Codes.load(folder_run / "disentangle" / "codes")
    apart = codes.rows(UNLABELLED)
    assert codes.ids[apart].tolist() == [f"{UNLABELLED}/{row:03}.png" for row in range(N, N + MORE)]
    assert set(codes.factor("label")[apart]) == {-1}
    assert sum(len(codes.rows(split)) for split in LABELLED) == N
    assert codes.values[apart].std() > 0

    labels = AuxiliaryLabels.load(folder_run / "cluster")
    assert labels.ids.tolist() == codes.ids.tolist()
    assert set(labels.labels[apart]) == {0, 1, 2, 3}
    n_train = len(codes.rows("train"))
    assert labels.meta["n_fitted"] == n_train + MORE
    assert sum(labels.meta["cluster_sizes"]) == n_train
    assert labels.meta["noise_fraction"] == dict.fromkeys((*LABELLED, UNLABELLED), 0.0)
    refined = AuxiliaryLabels.load(folder_run / "refine")
    assert refined.ids.tolist() == codes.ids.tolist()

    for path in folder_run.rglob("predictions.npz"):
        said = Predictions.load(path, "")
        assert set(said.splits) == {LABELLED.index("val"), LABELLED.index("test")}
        assert not any(name.startswith(UNLABELLED) for name in said.ids)
    probes = read_json(folder_run / "evaluate" / "probes.json")
    assert (probes["n_train"], probes["n_test"]) == (n_train, len(codes.rows("test")))
    report = read_json(folder_run / "report" / "report.json")
    assert sum(cluster["size"] for cluster in report["auxiliary"]["clusters"]) == n_train
    assert load(folder_run).data.dataset.n_classes == 2


@pytest.mark.slow
def test_shuffled_groups_are_shuffled_among_them_too(folder_run: Path, photos: Path):
    dataset = ImageFolder(photos, image_size=16, unlabelled=UNLABELLED)
    labels = folder_run / "cluster"
    targets = {}
    for auxiliary in ("discovered", "shuffled"):
        module = LabelledDataModule(dataset, labels=labels, auxiliary=auxiliary)
        module.prepare_data()
        module.setup("fit")
        targets[auxiliary] = module.targets[:, 1].numpy()
    rows = dataset.rows(UNLABELLED)
    before, after = (targets[auxiliary][rows] for auxiliary in ("discovered", "shuffled"))
    assert np.array_equal(np.sort(before), np.sort(after))
    assert (before != after).mean() > 0.3


@pytest.mark.slow
def test_labelled_images_keep_their_splits_and_what_no_clusterer_touches(
    folder_run: Path, photos: Path, tmp_path: Path
):
    shutil.copytree(photos, tmp_path / "images")
    shutil.rmtree(tmp_path / "images" / UNLABELLED)
    words = _words(tmp_path, "ImageFolder", "--until", "cluster", root=str(tmp_path / "images"))
    assert run_chain(words, in_process) == 0
    without, codes = (
        Codes.load(run / "disentangle" / "codes") for run in (tmp_path / "run", folder_run)
    )
    labelled = np.isin(codes.ids, without.ids)
    for name in ("ids", "splits", "factors", "values"):
        assert np.array_equal(getattr(codes, name)[labelled], getattr(without, name)), name
    # They change the key of a run that was begun without them.
    assert main(["fit", *words, "--dataset.unlabelled", str(photos / UNLABELLED)]) == 2


@pytest.mark.slow
def test_a_run_goes_on_where_their_folder_was_moved_and_not_with_another(
    folder_run: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    run_dir = Path(shutil.copytree(folder_run, tmp_path / "run"))
    shutil.copytree(photos, tmp_path / "new")
    shutil.move(tmp_path / "new" / UNLABELLED, tmp_path / "apart")
    words = [
        "--run_dir",
        str(run_dir),
        "--dataset.root",
        str(tmp_path / "new"),
        "--until",
        "cluster",
    ]
    capfd.readouterr()
    assert run_chain([*words, "--dataset.unlabelled", str(tmp_path / "apart")], in_process) == 0
    out = capfd.readouterr()
    assert (out.out + out.err).count("complete, skipped") == 3
    assert load(run_dir).data.dataset.rows(UNLABELLED).size == MORE
    next((tmp_path / "apart").iterdir()).unlink()
    assert main(["fit", *words, "--dataset.unlabelled", str(tmp_path / "apart")]) == 2
    assert main(["fit", *words, "--dataset.unlabelled", "null"]) == 2
    other, without = capfd.readouterr().err.splitlines()
    assert "was made with other settings: files was" in other
    assert "dataset.init_args.unlabelled was True, is 'absent'" in without


@pytest.mark.slow
def test_a_table_tells_other_labels_of_them_too(photos: Path, tmp_path: Path):
    given = {"path": str(photos / "table.csv"), "principal": "digit", "unlabelled": True}
    words = _words(tmp_path, "ImageTable", "--cluster.clusterer.n_clusters", "3", **given)
    assert run_chain([*words, "--evaluate.metrics", "[mig]"], in_process) == 0
    codes = Codes.load(tmp_path / "run" / "disentangle" / "codes")
    apart = codes.rows(UNLABELLED)
    assert len(apart) == MORE
    known = codes.factor("place")[apart]
    assert np.count_nonzero(known == -1) == MORE // 2
    assert set(known[known >= 0]) == {0, 1, 2, 3}
    assert codes.info.sizes == (2, 4)
    report = read_json(tmp_path / "run" / "report" / "report.json")
    assert report["auxiliary"]["n_clusters"] == 3
    assert main(["report", "--run_dir", str(tmp_path / "run")]) == 0


def test_the_check_counts_and_names_them(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = _words(tmp_path, "ImageFolder", root=str(photos), unlabelled=UNLABELLED)
    shutil.copy(next(photos.glob("*/000.png")), photos / UNLABELLED / "twin.png")
    try:
        assert main(["data", "check", *words]) == 0
        out = capsys.readouterr().out
        told = read_json(tmp_path / "run" / "data" / "check.json")
    finally:
        (photos / UNLABELLED / "twin.png").unlink()
    assert f"{MORE + 1} images have no label: clusters are found among them too" in out
    assert f"{UNLABELLED}/160.png" in out
    assert f"ImageFolder, {N + MORE + 1} images" in out
    assert told[UNLABELLED] == MORE + 1
    assert sum(sum(row.values()) for row in told["counts"].values()) == N
    findings = {finding["what"]: finding for finding in told["findings"]}
    twin = findings["1 image stands once with a label and once without"]
    assert not twin["mend"]
    assert twin["names"][0].endswith(f"{UNLABELLED}/twin.png ({UNLABELLED})")
    assert main(["data", "show", *words]) == 0


@pytest.mark.ddp
@pytest.mark.slow
def test_two_ranks_write_the_codes_of_one(folder_run: Path, tmp_path: Path):
    config = yaml.safe_load((folder_run / "disentangle" / "config.yaml").read_text())
    config["run_dir"] = str(tmp_path / "run")
    shutil.copytree(folder_run / "disentangle", tmp_path / "run" / "disentangle")
    shutil.rmtree(tmp_path / "run" / "disentangle" / "codes")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    more = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
    words = [sys.executable, "-m", "detaux_pl", "disentangle", "predict", "--config", str(path)]
    assert subprocess.run([*words, *more], check=False, timeout=240).returncode == 0
    one, two = (Codes.load(run / "disentangle" / "codes") for run in (folder_run, tmp_path / "run"))
    for name in ("ids", "splits", "factors"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_allclose(one.values, two.values, atol=1e-5)


def test_what_is_not_as_it_should_be_is_one_line(photos: Path, tmp_path: Path, error_line: Refused):
    def refused(**given: Any) -> str:
        return error_line(["data", "check", *_words(tmp_path, "ImageFolder", **given)])

    root = tmp_path / "images"
    shutil.copytree(photos, root)
    line = refused(root=str(root), unlabelled="nowhere")
    assert "nowhere does not exist: unlabelled is a folder of images without labels, below" in line
    (tmp_path / "bare").mkdir()
    line = refused(root=str(root), unlabelled=str(tmp_path / "bare"))
    assert f"there is no image in {tmp_path / 'bare'}: unlabelled is a folder" in line
    line = refused(root=str(root), unlabelled=str(tmp_path))
    assert f"unlabelled is {tmp_path}, which holds the root {root}" in line
    shutil.copytree(root / UNLABELLED, tmp_path / "other")
    line = refused(root=str(root), unlabelled=str(tmp_path / "other"))
    assert f"{root} has a folder {UNLABELLED} (unlabelled/160.png; " in line
    for name in ("high", "low"):
        shutil.rmtree(root / name)
    line = refused(root=str(root), unlabelled=UNLABELLED)
    assert f"{root} holds no image with a label" in line

    table = tmp_path / "images" / "t.csv"
    given = {"path": str(table), "principal": "digit", "unlabelled": True}
    table.write_text("image,digit\n" + "".join(f"unlabelled/{k}.png,\n" for k in range(160, 170)))
    line = error_line(["data", "check", *_words(tmp_path, "ImageTable", **given)])
    assert f"{table} has 10 images without a label of 'digit', and no training image with" in line


def test_a_class_with_labels_in_val_alone_is_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [line.split(",") for line in (photos / "table.csv").read_text().split()[1:]]
    lines = ["image,label,split"]
    for number, (name, label, _) in enumerate(rows):
        split = LABELLED[number % 3] if label else "whatever"
        lines.append(f"{name},{'odd' if number == 4 else label},{split}")
    table = tmp_path / "t.csv"
    table.write_text("\n".join(lines))
    given = {"path": str(table), "principal": "label", "root": str(photos), "unlabelled": True}
    assert main(["data", "check", *_words(tmp_path, "ImageTable", **given)]) == 3
    out = capsys.readouterr().out
    assert "1 class absent from train, but not from val and test" in out
    counts = json.loads((tmp_path / "run" / "data" / "check.json").read_text())["counts"]
    assert counts["odd"] == {"train": 0, "val": 1, "test": 0}
