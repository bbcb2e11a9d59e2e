"""What remedies are worth where label and place come apart, of a run of `configs/shortcut.yaml`.

    python -m tests.remedies runs/shortcut

Of each arm, seed by seed: accuracy of the test images, in which places are balanced; of those whose
place is not that of the digit; and in the worst true cell, a digit at a place. A gain with
discovered groups is held against the one with true groups.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from detaux_pl import Run
from detaux_pl.evaluation.significance import paired_test, summarise

ALONE = "single_task"
KINDS = ("all", "odd", "worst cell")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    run = Run(parser.parse_args().run_dir)
    train = run.codes.rows("train")
    ari = adjusted_rand_score(run.codes.factor("location")[train], run.labels.labels[train])
    print(f"ARI of the groups with the place: {ari:.3f}")
    for split in ("train", "val", "test"):
        counts, odd = np.bincount(_cells(run, split), minlength=20).reshape(10, 2), []
        odd = [int(counts[k, 1 - k % 2]) for k in range(10)]
        print(f"{split}: images of a digit where it is rare: {min(odd)} to {max(odd)}")
    found = {arm: {seed: _told(run, arm, seed) for seed in run.arms[arm]} for arm in run.arms}
    print(
        "\n| arm | seeds | all | odd | worst cell | against plain, worst (p) |\n" + "|---" * 6 + "|"
    )
    for arm, own in found.items():
        both = sorted(own.keys() & found[ALONE].keys())
        means = []
        for kind in range(len(KINDS)):
            told = summarise([own[seed][kind] for seed in both])
            half = 0.0 if told.high is None else told.high - told.mean
            means.append(f"{100 * told.mean:.1f} ± {100 * half:.1f}")
        test = paired_test([own[s][2] for s in both], [found[ALONE][s][2] for s in both])
        p = "" if test.p_value is None or arm == ALONE else f" ({test.p_value:.2g})"
        gain = "" if arm == ALONE else f"{100 * test.difference.mean:+.1f}{p}"
        print(f"| `{arm}` | {len(both)} | {' | '.join(means)} | {gain} |")
    print("\n| remedy | of | gain, discovered | true | share | p |\n" + "|---" * 6 + "|")
    for arm, own in found.items():
        true = found.get(f"{arm}-location")
        if true is None:
            continue
        both = sorted(own.keys() & true.keys() & found[ALONE].keys())
        for kind, name in enumerate(KINDS[1:], start=1):
            alone, one, other = (
                np.array([values[seed][kind] for seed in both])
                for values in (found[ALONE], own, true)
            )
            gains = (one - alone).mean(), (other - alone).mean()
            p = paired_test(one, other).p_value
            print(
                f"| `{arm}` | {name} | {100 * gains[0]:+.1f} | {100 * gains[1]:+.1f} | "
                f"{gains[0] / gains[1]:.0%} | {'' if p is None else f'{p:.2g}'} |"
            )


def _cells(run: Run, split: str) -> NDArray[np.int64]:
    rows = run.codes.rows(split)
    cells: NDArray[np.int64] = (
        2 * run.codes.factor("digit")[rows] + run.codes.factor("location")[rows]
    )
    return cells


def _told(run: Run, arm: str, seed: int) -> tuple[float, float, float]:
    """Accuracy of all test images, of the odd ones, and in the worst cell."""
    told = run.together(arm, [seed])
    cells = _cells(run, "test")[np.searchsorted(run.codes.ids[run.codes.rows("test")], told.ids)]
    odd = cells // 2 % 2 != cells % 2
    accuracy = np.bincount(cells, told.right, 20) / np.bincount(cells, minlength=20)
    return float(told.right.mean()), float(told.right[odd].mean()), float(accuracy.min())


if __name__ == "__main__":
    main()
