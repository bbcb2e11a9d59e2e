"""`make contrastive`: the papers' study on embedded data, every row over seeds, and its tables.

Every row of `configs/contrastive` and every seed is a run folder of its own below
`runs/contrastive`; a second call goes on where the first ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detaux_pl.cli.main import main as detaux

CONFIGS = Path("configs/contrastive")
SMALL = """
    --dataset.n_train 2000 --dataset.n_val 1000 --noise null
    --disentangle.model.encoder small_convnet --disentangle.model.optimizer adamw
    --disentangle.model.lr 0.001 --disentangle.model.warmup 0.3
    --disentangle.model.temperature 0.2
    --disentangle.data.pairing SharedFactors
    --disentangle.data.pairing.shared ["digit","background"]
    --disentangle.data.pairing.different ["location"]
    --disentangle.data.augment null --disentangle.data.batch_size 64
    --disentangle.trainer.max_epochs 20
    --disentangle.trainer.enable_progress_bar false
    --evaluate.tasks ["digit","background"]
"""
"""What makes of a row for 100,000 photographs one for 16 pixels and two cores."""


def main() -> None:
    """Run every row with every seed, two at a time, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--run_dir", type=Path, default=Path("runs/contrastive"))
    args = parser.parse_args()
    rows = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    runs = [(row, seed) for seed in range(args.seeds) for row in rows]
    with ThreadPoolExecutor(args.jobs) as pool:
        codes = list(pool.map(lambda run: _one(*run, args.run_dir), runs))
    if failed := [run for run, code in zip(runs, codes, strict=True) if code]:
        raise SystemExit(f"failed: {', '.join(f'{row}/seed{seed}' for row, seed in failed)}")
    folders = [str(args.run_dir / row / f"seed{seed}") for row, seed in runs]
    words = ["probes", *folders, "--against", "no_regularizer", "--format", "markdown"]
    for layout in ("summary", "accuracies"):
        detaux([*words, "--layout", layout])


def _one(row: str, seed: int, folder: Path) -> int:
    run_dir = folder / row / f"seed{seed}"
    words = [sys.executable, "-m", "detaux_pl", "fit"]
    words += ["--config", "configs/contrastive_quickstart.yaml", *SMALL.split()]
    words += ["--disentangle", str(CONFIGS / f"{row}.yaml"), "--seed", str(seed)]
    return subprocess.run(
        [*words, "--run_dir", str(run_dir), "--until", "evaluate"], check=False
    ).returncode


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
