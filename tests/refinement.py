"""`make refinement`: what refinement does for the labels of every disentangler and clusterer.

One chain below `runs/refinement`, in which each pair is a discovery of the quickstart's data, as it
was found, and after one round and two. A second call goes on where the first ended.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import wilcoxon

from detaux_pl.artifacts.exit_codes import NOTHING_FOUND, USER_ERROR
from detaux_pl.artifacts.files import read_json
from detaux_pl.cli.fit import run as run_chain

DISENTANGLERS = {
    "residual": "residual_blind",
    "product_manifold": "product_manifold",
    "contrastive": "contrastive",
    "vae": "beta_vae",
    "raw_pixels": "raw_pixels",
}
CLUSTERERS: dict[str, tuple[str, dict[str, Any]]] = {
    "hdbscan": ("HDBSCAN", {"min_cluster_size": 0.05, "min_samples": 5}),
    "kmeans4": ("KMeans", {"n_clusters": 4}),
    "kmeans8": ("KMeans", {"n_clusters": 8}),
    "mean_shift": ("MeanShift", {}),
    "nr_kmeans": ("NrKMeans", {"n_clusters": 4, "n_other": [10]}),
}
ROUNDS = {"-as_found": 0, "-one_round": 1, "": 2}
"""What the name of a discovery ends with, and its rounds of refinement."""


def main() -> None:
    """Run the chain, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/refinement"))
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    code = run_chain(
        [
            "--config", "configs/quickstart.yaml", "--run_dir", str(args.run_dir),
            "--cluster.select", "null", "--seeds", str(args.seeds), "--controls", "[location]",
            "--discoveries", json.dumps(_discoveries()),
        ]
    )  # fmt: skip
    if code not in (0, USER_ERROR, NOTHING_FOUND):  # some pairs find nothing, or cannot be
        raise SystemExit(code)
    _print_table(read_json(args.run_dir / "report" / "report.json"))


def _discoveries() -> dict[str, Any]:
    """Each pair by name, with every number of rounds; the codes of a disentangler are shared."""
    found = {}
    for disentangler, config in DISENTANGLERS.items():
        source: dict[str, Any] = {
            "disentangle": yaml.safe_load(Path(f"configs/disentangle/{config}.yaml").read_text())
        }
        owner = f"{disentangler}-{next(iter(CLUSTERERS))}"
        for clusterer, (class_path, settings) in CLUSTERERS.items():
            cluster = {"clusterer": {"class_path": class_path, "init_args": settings}}
            for suffix, rounds in reversed(ROUNDS.items()):
                name = f"{disentangler}-{clusterer}{suffix}"
                own = source if name == owner else {"codes": owner}
                found[name] = {**own, "cluster": cluster, "refine": {"rounds": rounds}}
    return found


def _print_table(report: dict[str, Any]) -> None:
    arms = report["arms"]
    alone = np.array(arms["single_task"]["accuracies"])
    print(
        f"single task {alone.mean():.1%}, true location "
        f"{100 * (np.mean(arms['location']['accuracies']) - alone.mean()):+.1f} points\n\n"
        "| disentangler | clusterer | classes | noise | NMI with digit | NMI with location | "
        "gain | better seeds |\n|---|---|---|---|---|---|---|---|"
    )
    accuracies, nmi = [], []
    for disentangler in DISENTANGLERS:
        for clusterer in CLUSTERERS:
            names = [f"{disentangler}-{clusterer}{suffix}" for suffix in ROUNDS]
            if not all(name in report["discoveries"] for name in names):
                print(f"| {disentangler} | {clusterer} | none |" + " |" * 5)
                continue
            tasks = [report["discoveries"][name][0] for name in names]
            gains = np.array([arms[name]["accuracies"] - alone for name in names])
            digit, location = (
                [task["factors"][name]["nmi"] for task in tasks] for name in ("digit", "location")
            )
            accuracies.append(gains.mean(axis=1))
            nmi.append(location)
            cells = [
                _arrows("{}", [task["n_classes"] for task in tasks]),
                f"{tasks[0]['noise_fraction']:.2f}",
                _arrows("{:.3f}", digit),
                _arrows("{:.2f}", location),
                _arrows("{:+.1f}", 100 * gains.mean(axis=1)),
                _arrows("{}", (gains[1:] > gains[0]).sum(axis=1)),
            ]
            print(f"| {disentangler} | {clusterer} | {' | '.join(cells)} |")
    for rounds in (1, 2):
        change, moved = (
            np.array(each)[:, rounds] - np.array(each)[:, 0] for each in (accuracies, nmi)
        )
        print(
            f"\nAfter {rounds} round(s) accuracy changed by {100 * np.median(change):+.1f} points "
            f"({100 * min(change):+.1f} to {100 * max(change):+.1f}): up for {(change > 0).sum()}, "
            f"down for {(change < 0).sum()} of {len(change)} pairs (p = "
            f"{wilcoxon(change).pvalue:.2g}, Wilcoxon, two-sided); NMI with the location by "
            f"{np.median(moved):+.2f}, up for {(moved > 0).sum()}."
        )


def _arrows(form: str, values: Iterable[Any]) -> str:
    return " → ".join(form.format(value) for value in values)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
