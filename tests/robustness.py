"""`make robustness`: what each disentangler discovers on the quickstart's data, over seeds.

Every variant and seed is a run folder of its own below `runs/robustness`; a second call goes on
where the first ended.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.exit_codes import NOTHING_FOUND
from detaux_pl.artifacts.files import read_json
from detaux_pl.artifacts.labels import AuxiliaryLabels
from detaux_pl.cli.fit import run as run_chain
from detaux_pl.metrics.agreement import agreement

VARIANTS = {
    "product manifold, paper's form": "configs/disentangle/product_manifold.yaml",
    "residual": "configs/disentangle/residual.yaml",
    "residual with blind spots": "configs/disentangle/residual_blind.yaml",
    "contrastive": "configs/disentangle/contrastive.yaml",
}


def main() -> None:
    """Run the first two stages for every variant and seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/robustness"))
    args = parser.parse_args()
    print(
        "| disentangler | found | nmi_principal median (max) | best hidden NMI median (min) "
        "| clusters | noise | seconds |\n|---|---|---|---|---|---|---|"
    )
    for name, config in VARIANTS.items():
        rows = [_one(config, seed, args.run_dir / Path(config).stem) for seed in range(args.seeds)]
        print(_line(name, rows), flush=True)


def _one(config: str, seed: int, folder: Path) -> dict[str, float] | None:
    """Discover once; None where the run says that it found no task."""
    run_dir = folder / f"seed{seed}"
    code = run_chain(
        [
            "--config", "configs/quickstart.yaml", "--disentangle", config,
            "--seed", str(seed), "--run_dir", str(run_dir), "--until", "cluster",
            "--cluster.select", "null",
        ]
    )  # fmt: skip
    seconds = read_json(run_dir / "disentangle" / "stage.json")["seconds"]
    if code == NOTHING_FOUND:
        return None
    if code:
        raise SystemExit(code)
    codes = Codes.load(run_dir / "disentangle" / "codes")
    labels = AuxiliaryLabels.load(run_dir / "cluster")
    train = codes.rows("train")
    nmi = {
        name: agreement(codes.factor(name)[train], labels.labels[train])["nmi"]
        for name in codes.info.names
    }
    return {
        "principal": nmi.pop(codes.info.principal),
        "hidden": max(nmi.values()),
        "clusters": labels.meta["n_clusters"],
        "noise": labels.meta["noise_fraction"]["train"],
        "seconds": seconds,
    }


def _line(name: str, rows: list[dict[str, float] | None]) -> str:
    found = [row for row in rows if row is not None]
    if not found:
        return f"| {name} | 0 of {len(rows)} | | 0 (0) | | | |"

    def column(key: str) -> list[float]:
        return [row[key] for row in found]

    # A run that found nothing counts as an NMI of 0.
    hidden = column("hidden") + [0.0] * (len(rows) - len(found))
    principal, clusters = column("principal"), column("clusters")
    return (
        f"| {name} | {len(found)} of {len(rows)} "
        f"| {statistics.median(principal):.3f} ({max(principal):.3f}) "
        f"| {statistics.median(hidden):.2f} ({min(hidden):.2f}) "
        f"| {min(clusters):.0f} to {max(clusters):.0f} "
        f"| {statistics.median(column('noise')):.2f} | {statistics.median(column('seconds')):.0f} |"
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
