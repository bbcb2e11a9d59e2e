"""`make refinement`: what refinement does for the labels of every disentangler and clusterer.

One chain below `runs/refinement`, in which each pair is a discovery of the quickstart's data, as it
was found and refined. A second call goes on where the first ended.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import wilcoxon

from detaux_pl.artifacts.files import read_json
from detaux_pl.cli import chain
from detaux_pl.cli.main import NOTHING_FOUND, USER_ERROR

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
FACTORS = ("digit", "location")
AS_FOUND = "-as_found"


def main() -> None:
    """Run the chain, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/refinement"))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    code = chain.fit(
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
    """Each pair by name, refined and as it was found; the codes of a disentangler are shared."""
    found = {}
    for disentangler, config in DISENTANGLERS.items():
        source: dict[str, Any] = {
            "disentangle": yaml.safe_load(Path(f"configs/disentangle/{config}.yaml").read_text())
        }
        for clusterer, (class_path, settings) in CLUSTERERS.items():
            name = f"{disentangler}-{clusterer}"
            cluster = {"clusterer": {"class_path": class_path, "init_args": settings}}
            found[name] = {**source, "cluster": cluster}
            source = {"codes": source.get("codes", name)}
            found[f"{name}{AS_FOUND}"] = {**source, "cluster": cluster, "refine": {"rounds": 0}}
    return found


def _print_table(report: dict[str, Any]) -> None:
    arms = report["arms"]
    alone = np.array(arms["single_task"]["accuracies"])
    print(
        f"single task {alone.mean():.1%}, true location "
        f"{100 * (np.mean(arms['location']['accuracies']) - alone.mean()):+.1f} points\n\n"
        "| disentangler | clusterer | classes | noise | NMI with digit | NMI with location | "
        "gain | refinement | seeds |\n|---|---|---|---|---|---|---|---|---|"
    )
    changes, moves = [], []
    for disentangler in DISENTANGLERS:
        for clusterer in CLUSTERERS:
            name = f"{disentangler}-{clusterer}"
            both = [report["discoveries"].get(key) for key in (name + AS_FOUND, name)]
            if any(each is None for each in both):
                print(f"| {disentangler} | {clusterer} | none |" + " |" * 6)
                continue
            before, after = (each[0] for each in both if each)
            accuracies = [np.array(arms[key]["accuracies"]) for key in (name + AS_FOUND, name)]
            change = accuracies[1] - accuracies[0]
            nmi = [[each["factors"][f]["nmi"] for each in (before, after)] for f in FACTORS]
            changes.append(change.mean())
            moves.append(nmi[1][1] - nmi[1][0])
            cells = [
                f"{before['n_classes']} → {after['n_classes']}",
                f"{before['noise_fraction']:.2f}",
                *(f"{a:.3f} → {b:.3f}" if f == "digit" else f"{a:.2f} → {b:.2f}"
                  for f, (a, b) in zip(FACTORS, nmi, strict=True)),
                " → ".join(f"{100 * (each - alone).mean():+.1f}" for each in accuracies),
                f"{100 * change.mean():+.1f}",
                f"{(change > 0).sum()} of {len(change)}",
            ]  # fmt: skip
            print(f"| {disentangler} | {clusterer} | {' | '.join(cells)} |")
    print(
        f"\nRefinement changed accuracy by {100 * np.median(changes):+.1f} points "
        f"({100 * min(changes):+.1f} to {100 * max(changes):+.1f}), better for "
        f"{np.sum(np.array(changes) > 0)} of {len(changes)} pairs "
        f"(p = {wilcoxon(changes).pvalue:.2g}, Wilcoxon, two-sided); NMI with the location by "
        f"{np.median(moves):+.2f}, better for {np.sum(np.array(moves) > 0)}."
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
