"""`make discovery`: which score of a candidate task tells what it is worth.

Candidates good and bad, among them true factors, shuffled ones and the principal task itself, are
scored as `detaux cluster` does and then trained on in full. A second call goes on where the first
ended; everything lies below `runs/discovery`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import read_json, write_json
from detaux_pl.artifacts.labels import AuxiliaryLabels, load_tasks, save_tasks
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cluster.candidates import (
    Candidate,
    Selection,
    choose,
    describe,
    judge,
    propose,
    rule_out,
)
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.hdbscan import HDBSCAN
from detaux_pl.cluster.kmeans import KMeans
from detaux_pl.cluster.subspace import score_subspaces
from detaux_pl.data.batch import Fold
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.datasets.synthetic_shapes3d import SyntheticShapes3D
from detaux_pl.data.factor_dataset import FactorDataset
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.data.noise import SaltPepper
from detaux_pl.multitask.cross_fit import CrossFit, fit_net

Work = tuple[Path, str, str, str, int]
"""A piece of work: below which folder, for which setting and candidate, what, and its seed."""

SEEDS = 4
FRESH = (1, 2)
"""Seeds of the folds on which the choice is confirmed."""
SETTINGS: dict[str, dict[str, Any]] = {
    "digit": {"n_train": 600, "n_locations": 4, "noise": 0.15, "epochs": 20},
    "location": {"n_train": 200, "n_locations": 8, "noise": 0.45, "epochs": 30},
    "background": {"n_train": 100, "n_locations": 8, "noise": 0.3, "epochs": 60},
    "shape": {"n_train": 600, "image_size": 16, "noise": 0.1, "epochs": 15},
}
"""By principal factor: data with room for a gain, and epochs of the multi-task nets."""
DISENTANGLERS = {
    "residual": ("residual_blind", 3),
    "product manifold": ("product_manifold", 6),
    "raw pixels": ("raw_pixels", 3),
}
"""By name: the configuration, and how many of its candidates are taken, from the most stable to the
least."""


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/discovery"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    work: list[Work] = []
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        pool.starmap(_prepare, [(args.run_dir / setting, setting) for setting in SETTINGS], 1)
    for setting in SETTINGS:
        for name in _candidates(args.run_dir / setting):
            work += [(args.run_dir, setting, name, "score", 0)]
            work += [(args.run_dir, setting, name, "gain", seed) for seed in range(SEEDS)]
    _run(work, args.jobs)
    everything = {setting: _rows(args.run_dir, setting) for setting in SETTINGS}
    for setting, rows in everything.items():
        names = ["alone", *(row["name"] for row in _choice(_proposed(rows)))]
        work += [(args.run_dir, setting, name, "score", seed) for name in names for seed in FRESH]
    _run(work, args.jobs)
    for setting, rows in everything.items():
        _print_candidates(setting, rows, _mean(args.run_dir, setting, "alone"))
    _print_correlations(everything)
    _print_choices(args.run_dir, everything)


def _run(work: Sequence[Work], n_jobs: int) -> None:
    left = [item for item in work if not _path(*item).is_file()]
    with (
        multiprocessing.get_context("spawn").Pool(n_jobs) as pool,
        progress_bar("discovery", len(work), len(work) - len(left)) as advance,
    ):
        for _ in pool.imap_unordered(_do, left):
            advance(1)


def _prepare(room: Path, setting: str) -> None:
    """Train the disentanglers and write the labels of every candidate."""
    if (room / "candidates.json").is_file():
        return
    found: list[Candidate] = []
    rules: dict[str, Any] = {}
    data = _dataset(setting)
    for name, (config, n_proposed) in DISENTANGLERS.items():
        run_dir = room / name.replace(" ", "_")
        told = SETTINGS[setting]
        words = ["--config", "configs/quickstart.yaml", "--disentangle"]
        words += [f"configs/disentangle/{config}.yaml"]
        words += ["--run_dir", str(run_dir), "--until", "disentangle", "--controls", "[]"]
        words += ["--evaluate.metrics", "[]"]  # pixels are too many for them
        words += ["--noise.amount", str(told["noise"])]
        words += ["--dataset", json.dumps(_described(setting))]
        if code := run_chain(words):
            raise SystemExit(code)
        codes = Codes.load(run_dir / "disentangle" / "codes")
        clusterers = [KMeans(2), KMeans(4), KMeans(8)]
        discovery = Discovery(HDBSCAN(0.05, 5), noise="nearest")
        proposed = propose({name: codes}, discovery, Selection(clusterers, min_class=1))
        some = [each for each in proposed if each.refused is None]
        some = some or [each for each in proposed if each.task is not None]
        places = np.unique(np.linspace(0, len(some) - 1, n_proposed).astype(int))
        found += [some[place] for place in places]
        if codes.values.shape[1] > 1:  # the rules choose among subspaces
            scores = score_subspaces(codes, np.random.default_rng([0, 0]))
            rules |= {f"{name} {score.subspace}": asdict(score) for score in scores}
        if name == "product manifold":
            found += _by_rule(codes, discovery)
    found += _known(data, codes)
    records = {}
    for each in found:
        score = rules.get(f"{each.codes} {each.subspace}", {})
        paper = {key: score.get(key) for key in ("ratio", "loss")}
        records[f"{each.codes}: {each.name}"] = {**each.record(), **paper}
        assert each.task is not None
        folder = _folder(room, f"{each.codes}: {each.name}")
        folder.mkdir(parents=True, exist_ok=True)
        save_tasks([each.task], folder)
    records["alone"] = {}
    write_json(room / "candidates.json", records)


def _by_rule(codes: Codes, discovery: Discovery) -> Iterator[Candidate]:
    """What the paper's procedure takes, by each rule."""
    for rule in ("ratio", "min_l_dist"):
        own = Discovery(discovery.clusterer, rule=rule, try_next=True, noise="nearest")
        try:
            (task,) = own(codes)
        except UserError:
            continue
        what = f"{rule} of product manifold"
        candidate = Candidate(what, task.meta["subspace"], own.clusterer.settings, task)
        describe(candidate, codes)
        candidate.stability = float("nan")
        yield candidate


def _known(data: FactorDataset, codes: Codes) -> Iterator[Candidate]:
    """True factors, alone and crossed, half and wholly shuffled ones, and tasks that are none."""
    rng = np.random.default_rng(0)
    hidden = [name for name in data.factor_names if name != data.principal]
    factors = {name: data.factor(name) for name in data.factor_names}
    labels = {f"true {name}": factors[name] for name in hidden}
    first, second = hidden[:2]
    labels[f"true {first} x {second}"] = factors[first] * 100 + factors[second]
    for name in hidden[:2]:
        mixed, some = factors[name].copy(), rng.random(len(data)) < 0.5
        mixed[some] = rng.permutation(mixed[some])
        labels[f"half shuffled {name}"] = mixed
        labels[f"shuffled {name}"] = rng.permutation(factors[name])
    labels["the principal task"] = factors[data.principal]
    labels["two halves of the principal classes"] = factors[data.principal] % 2
    labels["one giant class"] = (rng.random(len(data)) < 0.03).astype(int)
    for name, values in labels.items():
        dense = np.unique(values, return_inverse=True)[1].astype(np.int64)
        nothing = np.zeros(len(data), bool)
        task = AuxiliaryLabels(
            data.ids, data.splits, dense, nothing, np.ones(len(data), np.float32),
            int(dense.max()) + 1, {"noise_class": None},
        )  # fmt: skip
        candidate = Candidate("known", 0, {"class": name}, task)
        describe(candidate, codes)
        candidate.stability = float("nan")
        yield candidate
    many = KMeans(min(200, len(data.rows("train")) // 2), n_init=1)
    discovery = Discovery(many, subspace=0)
    candidate = Candidate("known", 0, {"class": "200 classes"}, discovery(codes)[0])
    describe(candidate, codes)
    candidate.stability = float("nan")
    yield candidate


def _described(setting: str) -> dict[str, Any]:
    told = {k: v for k, v in SETTINGS[setting].items() if k not in ("noise", "epochs")}
    shapes = {"n_val": 200, "n_test": 2000, "split": "random"} if setting == "shape" else {}
    name = "SyntheticShapes3D" if setting == "shape" else "DigitScenes"
    return {"class_path": name, "init_args": {"principal": setting, **shapes, **told}}


@cache
def _dataset(setting: str) -> FactorDataset:
    given = _described(setting)
    kind = SyntheticShapes3D if setting == "shape" else DigitScenes
    data: FactorDataset = kind(**given["init_args"])
    data.describe()
    data.prepare()
    data.setup()
    return data


@cache
def _module(setting: str) -> LabelledDataModule:
    module = LabelledDataModule(
        _dataset(setting), noise=SaltPepper(SETTINGS[setting]["noise"]), batch_size=32
    )
    module.setup("fit")
    return module


def _candidates(room: Path) -> list[str]:
    return list(read_json(room / "candidates.json"))


def _folder(room: Path, name: str) -> Path:
    return room / "labels" / name.replace(" ", "_").replace("/", "_").replace(":", "")


def _path(root: Path, setting: str, name: str, what: str, seed: int) -> Path:
    return _folder(root / setting, name) / f"{what}{seed}.json"


def _do(item: Work) -> None:
    """Score a candidate out of fold, or train on it in full."""
    import torch

    from detaux_pl.multitask.base import MultitaskModel
    from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
    from detaux_pl.multitask.single_task import SingleTask
    from detaux_pl.training.quiet import quiet

    quiet()
    torch.set_num_threads(1)
    root, setting, name, what, seed = item
    module, data = _module(setting), _dataset(setting)
    tasks = [] if name == "alone" else load_tasks(_folder(root / setting, name))
    targets = [data.factor(data.principal), *(task.of(data.ids) for task in tasks)]
    sizes = (data.n_classes, *(task.n_classes for task in tasks))
    trainer = {"max_epochs": SETTINGS[setting]["epochs"], "accelerator": "cpu", "devices": 1}

    def build(sizes: tuple[int, ...]) -> MultitaskModel:
        if len(sizes) == 1:
            return SingleTask(data.image_shape, sizes, backbone="small_convnet", lr=1e-3)
        return HardParameterSharing(data.image_shape, sizes, backbone="small_convnet", lr=1e-3)

    labels = np.stack(targets, axis=1)
    train, test = data.rows("train"), data.rows("test")
    if what == "gain":
        fold = Fold(train, test, labels)
        said = fit_net(module, build, fold, sizes, [seed], trainer)[0].argmax(axis=1)
        result = {"accuracy": float((said == data.factor(data.principal)[test]).mean())}
    else:
        nets = _path(*item).parent / f"nets{seed}"
        fit = CrossFit(nets, labels, sizes, train, test[:0], seed=seed)
        for net in fit.nets:
            fit.fit(net, module, build, trainer)
        result = {"folds": fit.accuracies()[:, 0].tolist()}
        if tasks:
            result["learnability"] = fit.learnability()
    write_json(_path(*item), result)


def _print_candidates(setting: str, rows: list[dict[str, Any]], alone: float) -> None:
    print(f"\n{setting} (alone {alone:.1%})\n")
    print("| candidate | classes | gain on test | gain out of fold | learnability | ", end="")
    print("AMI | stability | refused |\n" + "|---" * 8 + "|")
    for row in sorted(rows, key=lambda row: -row["worth"]):
        told = row["candidate"]
        stability = "" if np.isnan(row["stability"]) else f"{row['stability']:.2f}"
        print(
            f"| {row['name']} | {told.n_classes} | {100 * row['worth']:+.1f} | "
            f"{100 * row['gain']:+.1f} | {told.learnability:.2f} | {told.ami_principal:.2f} | "
            f"{stability} | {told.refused or ''} |"
        )


def _rows(root: Path, setting: str) -> list[dict[str, Any]]:
    """What is known of every candidate: its scores, the larger the better, and what it is worth."""
    alone = _mean(root, setting, "alone")
    base = np.mean(_folds(root, setting, "alone", 0))
    rows = []
    for name, record in read_json(root / setting / "candidates.json").items():
        if name == "alone":
            continue
        score = read_json(_path(root, setting, name, "score", 0))
        told = {f.name: record[f.name] for f in fields(Candidate) if f.name in record}
        candidate = Candidate(**told)
        candidate.gain = float(np.mean(score["folds"]) - base)
        candidate.learnability = score["learnability"]
        candidate.refused = rule_out(candidate, Selection())
        choose([candidate], Selection())  # which refuses what nets cannot learn
        rows.append(
            {
                "name": name,
                "candidate": candidate,
                "worth": _mean(root, setting, name) - alone,
                "gain": candidate.gain,
                "gain, of those not refused": _open_gain(candidate),
                "learnability": candidate.learnability,
                "independence": -candidate.ami_principal,
                "stability": candidate.stability,
                "balance": candidate.balance,
                "few classes": -candidate.n_classes,
                "the paper's ratio": _negative(record["ratio"]),
                "the paper's loss": _negative(record["loss"]),
            }
        )
    return rows


def _print_correlations(everything: dict[str, list[dict[str, Any]]]) -> None:
    print("\n| score | " + " | ".join(everything) + " | all |")
    print("|---" * (len(everything) + 2) + "|")
    names = ("name", "candidate", "worth")
    scores = [key for key in next(iter(everything.values()))[0] if key not in names]
    for score in scores:
        known = [[row for row in rows if np.isfinite(row[score])] for rows in everything.values()]
        pooled = [
            np.concatenate([rankdata([row[key] for row in rows]) / len(rows) for rows in known])
            for key in (score, "worth")
        ]
        cells = [
            _correlation([row[score] for row in rows], [row["worth"] for row in rows])
            for rows in known
        ]
        print(f"| {score} | " + " | ".join([*cells, _correlation(*pooled)]) + " |")


def _print_choices(root: Path, everything: dict[str, list[dict[str, Any]]]) -> None:
    print(
        "\n| principal factor | the best there is | chosen of all | chosen of the proposed | ",
        end="",
    )
    print("on fresh folds | by the ratio | by the loss |\n" + "|---" * 7 + "|")
    for setting, rows in everything.items():
        chosen = _choice(_proposed(rows))
        cells = [
            ", ".join(f"{row['name']} ({100 * row['worth']:+.1f})" for row in some) or "none"
            for some in ([max(rows, key=lambda row: row["worth"])], _choice(rows), chosen)
        ]
        alone, together = (
            np.concatenate([_folds(root, setting, name, seed) for seed in FRESH])
            for name in ("alone", *(row["name"] for row in chosen), "alone")[:2]
        )
        candidates = [row["candidate"] for row in chosen]
        verdict = judge(candidates, 1, 4, alone, together, setting)
        gain = f"{100 * verdict['gain']:+.1f}, p = {verdict['p_value']:.2g}: " if chosen else ""
        cells.append(f"{gain}{'found' if verdict['found'] else 'none found'}")
        for rule in ("ratio", "min_l_dist"):
            by_rule = [row["worth"] for row in rows if row["name"].startswith(f"{rule} of")]
            cells.append(f"{100 * by_rule[0]:+.1f}" if by_rule else "none")
        print(f"| {setting} | " + " | ".join(cells) + " |")


def _proposed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The candidates that come from codes."""
    return [row for row in rows if not row["name"].startswith("known")]


def _choice(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best of those that are not refused, if there is any."""
    open_ = [row for row in rows if row["candidate"].refused is None]
    return sorted(open_, key=lambda row: -row["gain"])[:1]


def _folds(root: Path, setting: str, name: str, seed: int) -> list[float]:
    """Accuracy of the principal task on each fold, out of fold."""
    folds: list[float] = read_json(_path(root, setting, name, "score", seed))["folds"]
    return folds


def _mean(root: Path, setting: str, name: str) -> float:
    runs = [read_json(_path(root, setting, name, "gain", seed)) for seed in range(SEEDS)]
    return float(np.mean([run["accuracy"] for run in runs]))


def _open_gain(candidate: Candidate) -> float:
    assert candidate.gain is not None
    return candidate.gain if candidate.refused is None else float("nan")


def _negative(value: float | None) -> float:
    return float("nan") if value is None else -value


def _correlation(scores: Sequence[float], worth: Sequence[float]) -> str:
    found = spearmanr(scores, worth)
    return f"{found.statistic:+.2f} (p {found.pvalue:.1g}, n {len(scores)})"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
