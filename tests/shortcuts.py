"""`make shortcuts`: whether the shortcut alarm and the intervals of the group sheet hold.

Four tables: coverage of the intervals in simulated data; alarms of simulated codes, in which a
place goes with the digit; alarms of trained codes of DigitScenes, and of SyntheticShapes3D, on
which nothing was chosen. With --clothing FOLDER --weights FILE also of photographs, by features
of a frozen net. Run folders lie below `runs/shortcuts`; a second call goes on where the first
ended.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.artifacts.exit_codes import NOTHING_FOUND
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.cluster.candidates import Selection, propose
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.hdbscan import HDBSCAN
from detaux_pl.cluster.kmeans import KMeans
from detaux_pl.cluster.related import look_beside, relate_candidates
from detaux_pl.cluster.shortcuts import Shortcuts
from detaux_pl.data.correlation import tie
from detaux_pl.evaluation.groups import GroupSheet, group_sheet
from detaux_pl.evaluation.together import Sureness, Together

DRAWN = {"principal": (0.0, 0.5, 0.7, 0.9, 0.99), "free": (0.0,)}
"""Shares of samples whose place is that of the digit, by where codes have the place."""
TRAINED = {"DigitScenes": (0.0, 0.5, 0.7, 0.9, 0.95), "SyntheticShapes3D": (0.0, 0.5, 0.9)}
NAMED = 0.5
"""NMI with the planted factor from which an alarm names it."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100, help="of codes without a shortcut")
    parser.add_argument("--planted", type=int, default=100, help="of codes with one, by share")
    parser.add_argument("--seeds", type=int, default=1, help="of trained codes")
    parser.add_argument("--run_dir", type=Path, default=Path("runs/shortcuts"))
    parser.add_argument("--clothing", type=Path, default=None, help="folder of the photographs")
    parser.add_argument("--weights", type=Path, default=None, help="of tf_efficientnet_lite0")
    args = parser.parse_args()
    for n in (200, 2000):
        _print_coverage(n)
    print("\n| codes | correlation | named | other alarms | V, median |\n|---|---|---|---|---|")
    for where, shares in DRAWN.items():
        for share in shares:
            # Draws below 100 showed where the alarm has to begin.
            n = args.planted if share else args.draws
            found = [look(draw_codes(share, where, seed)) for seed in range(100, 100 + n)]
            print(_line(f"drawn, place in a {where} subspace", share, found, "place"), flush=True)
    for name, given in (("DigitScenes", _digits), ("SyntheticShapes3D", _shapes)):
        for share in TRAINED[name]:
            runs = [given(share, seed, args.run_dir) for seed in range(args.seeds)]
            found = [look(codes) for codes, _ in runs]
            print(_line(f"trained, {name}", share, found, runs[0][1]), flush=True)
    if args.clothing is not None:
        print(_clothing(args.clothing, args.weights, args.run_dir))


def coverage(seed: int, n_val: int = 1000, n_test: int = 2000) -> dict[str, list[bool]]:
    """Whether the intervals of one simulated data set hold what they should.

    Ten classes and four groups that go with them in validation images, balanced in test images;
    the accuracy of a cell is drawn from a beta distribution of mean 0.85.
    """
    rng = np.random.default_rng(seed)
    truth = rng.beta(8.5, 1.5, (10, 4))
    ids = np.arange(n_val + n_test)
    labels, groups = rng.integers(0, 10, len(ids)), rng.integers(0, 4, len(ids))
    groups[:n_val] = tie(labels[:n_val], groups[:n_val], 4, 0.5, rng)
    right = rng.random(len(ids)) < truth[labels, groups]
    said = np.where(right, labels, (labels + 1) % 10)
    splits = np.where(ids < n_val, 1, 2).astype(np.int8)
    every = np.ones(len(ids))
    task = AuxiliaryLabels(ids, splits, groups, every < 0, every.astype(np.float32), 4)
    names = tuple(map(str, range(10)))
    val, test = (
        Together(
            "label", (0,), names, 1.0, ids[part], labels[part], said[part], every[part],
            every[part], said[None, part], Sureness([]), Sureness([]),
        )
        for part in (slice(n_val), slice(n_val, None))
    )  # fmt: skip
    sheet = group_sheet(val, test, task)
    low, high = sheet.ends
    holds = (low <= truth) & (truth <= high)
    assert sheet.worst is not None
    naive = np.unravel_index(np.nanargmin(sheet.hits[1] / sheet.n[1]), truth.shape)
    return {
        "cells of validation": holds[0][sheet.n[0] > 0].tolist(),
        "cells of test": holds[1].ravel().tolist(),
        "the worst, told of test": [bool(holds[1][sheet.worst])],
        "the worst of test, told of test (naive)": [bool(holds[1][naive])],
        "the worst of validation, told of it (naive)": [bool(holds[0][_least(sheet)])],
    }


def _least(sheet: GroupSheet) -> tuple[int, int]:
    share = sheet.hits[0] / np.maximum(sheet.n[0], 1)
    share[sheet.n[0] == 0] = np.inf
    k, g = np.unravel_index(share.argmin(), share.shape)
    return int(k), int(g)


def _print_coverage(n: int) -> None:
    draws = [coverage(seed) for seed in range(n)]
    print("| 95 % interval | holds |\n|---|---|")
    for name in draws[0]:
        held = np.concatenate([draw[name] for draw in draws])
        print(f"| {name} | {100 * held.mean():.1f} % of {held.size:,} |")


def draw_codes(share: float, where: str, seed: int, n: int = 600) -> Codes:
    """Codes as a disentangler leaves them: four subspaces of six dimensions, digit first.

    Args:
        share: Share of the samples whose place is that of the digit.
        where: `free` for a place in a subspace of its own, `principal` for one with the digit,
            where trained codes have it from a share of 0.5 on.
        seed: Seed of the drawing.
        n: Number of samples, all for training.
    """
    rng = np.random.default_rng([seed, 100])
    digit, place, ground = (rng.integers(0, k, n) for k in (10, 4, 10))
    place = tie(digit, place, 4, share, rng)
    values = rng.normal(scale=0.3, size=(n, 4, 6))
    values[:, 0] += 0.3 * rng.normal(size=(10, 6))[digit]  # digits are coded badly
    values[:, 1 if where == "free" else 0] += 1.5 * rng.normal(size=(4, 6))[place]
    values[:, 2] += rng.normal(size=(10, 6))[ground]
    info = FactorInfo(("digit", "place", "ground"), (10, 4, 10), "digit", 0)
    factors = np.stack([digit, place, ground], axis=1)
    return Codes(values.astype(np.float32), np.arange(n), np.zeros(n, np.int8), factors, info)


def look(codes: Codes) -> Shortcuts:
    """Raise the alarm as `detaux cluster` does with the quickstart's clusterers, in less time."""
    discovery = Discovery(HDBSCAN(0.05, 5), noise="nearest")
    selection = Selection([KMeans(k, n_init=2) for k in (2, 4, 8)], halves=1)
    sources = {"codes": codes}
    candidates = propose(sources, discovery, selection)
    beside = look_beside(sources, discovery, selection)
    return relate_candidates([*candidates, *beside], sources, 0)[0]


def _line(name: str, share: float, found: Sequence[Shortcuts], planted: str) -> str:
    named = [a for each in found for a in each["alarms"] if a["known"][planted] >= NAMED]
    hits = sum(any(a["known"][planted] >= NAMED for a in each["alarms"]) for each in found)
    other = sum(any(a["known"][planted] < NAMED for a in each["alarms"]) for each in found)
    effect = f"{np.median([a['effect'] for a in named]):.2f}" if named else ""
    return f"| {name} | {share:g} | {hits} of {len(found)} | {other} of {len(found)} | {effect} |"


def _trained(folder: Path, *args: str) -> Codes:
    code = run_chain(
        [
            "--config", "configs/quickstart.yaml", "--until", "disentangle",
            "--run_dir", str(folder), *args,
        ]
    )  # fmt: skip
    if code not in (0, NOTHING_FOUND):
        raise SystemExit(code)
    return Codes.load(folder / "disentangle" / "codes")


def _digits(share: float, seed: int, folder: Path) -> tuple[Codes, str]:
    given = ["--seed", str(seed), "--dataset.seed", str(seed), "--dataset.correlation", f"{share}"]
    return _trained(folder / f"digits{share:g}-{seed}", *given), "location"


def _shapes(share: float, seed: int, folder: Path) -> tuple[Codes, str]:
    """Of four shapes, each of which has a colour of the floor."""
    given: dict[str, Any] = {
        "dataset": "SyntheticShapes3D", "dataset.principal": "shape", "dataset.image_size": 16,
        "dataset.split": "random", "dataset.n_train": 600, "dataset.n_val": 200,
        "dataset.n_test": 200, "dataset.seed": seed, "seed": seed, "noise.amount": 0.0,
        "dataset.correlate.label": "shape", "dataset.correlate.factor": "floor_hue",
        "dataset.correlate.share": share,
    }  # fmt: skip
    words = [f"--{key}={value}" for key, value in given.items()]
    words.append("--controls=[shuffled]")
    return _trained(folder / f"shapes{share:g}-{seed}", *words), "floor_hue"


def _clothing(folder: Path, weights: Path, run_dir: Path) -> str:
    """What is said of photographs of garments, whose senders go with them (NMI 0.17)."""
    code = run_chain(
        [
            "--config", "configs/table.yaml", "--until", "disentangle",
            "--dataset.path", str(folder / "labels.csv"), "--dataset.principal", "label",
            "--dataset.cache_dir", str(run_dir / "cache"), "--run_dir", str(run_dir / "clothing"),
            "--disentangle.model.weights", str(weights),
            "--multitask.model.weights", str(weights),
        ]
    )  # fmt: skip
    if code:
        raise SystemExit(code)
    found = look(Codes.load(run_dir / "clothing" / "disentangle" / "codes"))
    lines = [f"\n{found['sentence']}"]
    lines += [f"known: {alarm['known']}" for alarm in found["alarms"]]
    lines += [
        f"{row['name']}: {row['kind']}, V {row['effect']:.2f}, p {row['p_value']:.3f}, "
        f"depth {row['depth'] or 0:.2f}"
        for row in found["relations"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
