"""`make draws`: the whole quickstart over draws of its data, each with a seed of its own.

Every draw is a run folder below `runs/draws`; a second call goes on where the first ended. Prints
what the tasks are worth, and what it is worth to ask all seeds of an arm together.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from detaux_pl import Run, load
from detaux_pl.artifacts.exit_codes import NOTHING_FOUND
from detaux_pl.artifacts.files import read_json
from detaux_pl.cli.fit import run as run_chain


class Draw(NamedTuple):
    """What a run came to.

    Args:
        chosen: The discovered task, in words.
        promised: Its gain out of fold, before anything was trained on it.
        p: The p-value of that.
        nmi: NMI of the refined labels with the factors, the principal one first.
        accuracy: Mean test accuracy of each arm over its seeds.
    """

    chosen: str
    promised: float
    p: float
    nmi: dict[str, float]
    accuracy: dict[str, float]


def main() -> None:
    """Run every draw, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/draws"))
    parser.add_argument(
        "--together", action="store_true", help="of draws that are finished, the second table alone"
    )
    args = parser.parse_args()
    folders = [args.run_dir / f"draw{seed}" for seed in range(args.draws)]
    if args.together:
        _print_together(folders)
        return
    draws = [_run(args.config, seed, args.run_dir / f"draw{seed}") for seed in range(args.draws)]
    print("| draw | chosen | gain out of fold (p) | NMI with digit / location | ", end="")
    print("alone | discovered | location | shuffled |\n" + "|---" * 8 + "|")
    for seed, draw in enumerate(draws):
        if draw is None:
            print(f"| {seed} | none" + " |" * 7)
            continue
        alone = draw.accuracy["single_task"]
        arms = [
            f"{100 * (draw.accuracy[arm] - alone):+.1f}"
            for arm in ("hard_parameter_sharing", "location", "shuffled")
        ]
        print(
            f"| {seed} | {draw.chosen} | {100 * draw.promised:+.1f} ({draw.p:.1g}) | "
            f"{draw.nmi['digit']:.3f} / {draw.nmi['location']:.2f} | "
            f"{100 * alone:.1f} % | {' | '.join(arms)} |"
        )
    _print_summary([draw for draw in draws if draw is not None], len(draws))
    _print_together([folder for folder, draw in zip(folders, draws, strict=True) if draw])


def _print_together(folders: list[Path]) -> None:
    """Print the mean of the networks of an arm beside what they say together."""
    arms = ("single_task", "hard_parameter_sharing")
    print("\n| draw | " + " | ".join(f"{arm}: mean, together" for arm in arms), end="")
    print(" | of one: ECE, calibrated | together: ECE, calibrated |\n" + "|---" * 5 + "|")
    found = []
    for folder in folders:
        told = read_json(folder / "report" / "report.json")["arms"]
        accuracy = [(told[arm]["accuracy_mean"], told[arm]["ensemble"]["accuracy"]) for arm in arms]
        own = told[arms[1]]["ensemble"]
        errors = [_error_of_one(folder, arms[1]), (own["ece"], own["ece_calibrated"])]
        found.append([*np.ravel(accuracy), *np.ravel(errors)])
        cells = [f"{100 * mean:.1f}, {100 * together:.1f} %" for mean, together in accuracy]
        cells += [f"{before:.3f}, {after:.3f}" for before, after in errors]
        print(f"| {folder.name.removeprefix('draw')} | {' | '.join(cells)} |")
    median = np.median(found, axis=0)
    print(
        f"\nMedians: {arms[0]} {100 * median[0]:.1f} -> {100 * median[1]:.1f} %, {arms[1]} "
        f"{100 * median[2]:.1f} -> {100 * median[3]:.1f} %; ECE of one {median[4]:.3f} -> "
        f"{median[5]:.3f}, together {median[6]:.3f} -> {median[7]:.3f}."
    )


def _error_of_one(folder: Path, arm: str) -> tuple[float, float]:
    """Mean calibration error of the networks of an arm, before and after their temperatures."""
    run = load(folder)
    assert isinstance(run, Run)
    alone = [run.together(arm, [seed]) for seed in run.arms[arm]]
    errors = [(own.before.ece, own.after.ece) for own in alone]
    before, after = np.mean(errors, axis=0)
    return float(before), float(after)


def _run(config: Path, seed: int, run_dir: Path) -> Draw | None:
    """Run a draw; None where it says that no task was found."""
    words = ["--config", str(config), "--run_dir", str(run_dir)]
    code = run_chain([*words, "--seed", str(seed), "--dataset.seed", str(seed)])
    if code == NOTHING_FOUND:
        return None
    if code:
        raise SystemExit(code)
    told = read_json(run_dir / "report" / "report.json")
    found, verdict = told["auxiliary"], told["candidates"]["verdict"]
    return Draw(
        f"{', '.join(verdict['chosen'])}: {found['n_classes']} classes",
        verdict["gain"],
        verdict["p_value"],
        {name: said["nmi"] for name, said in found["factors"].items()},
        {name: arm["accuracy_mean"] for name, arm in told["arms"].items()},
    )


def _print_summary(draws: list[Draw], n_draws: int) -> None:
    gains, ceiling, promised = (
        np.array([draw.accuracy[arm] - draw.accuracy["single_task"] for draw in draws])
        if arm
        else np.array([draw.promised for draw in draws])
        for arm in ("hard_parameter_sharing", "location", "")
    )
    nmi = np.array([draw.nmi["digit"] for draw in draws])
    p = wilcoxon(gains, alternative="greater").pvalue
    print(
        f"\nA task was found in {len(draws)} of {n_draws} draws. NMI with the digit: median "
        f"{np.median(nmi):.3f}, at most {nmi.max():.3f}. Gain of accuracy: above 0 in "
        f"{(gains > 0).sum()}, median {100 * np.median(gains):+.1f} points "
        f"({100 * gains.min():+.1f} to {100 * gains.max():+.1f}; p = {p:.2g}, Wilcoxon). "
        f"With the true location: median {100 * np.median(ceiling):+.1f} "
        f"({100 * ceiling.min():+.1f} to {100 * ceiling.max():+.1f}). Ratio of the medians: "
        f"{np.median(gains) / np.median(ceiling):.0%}. Promised out of fold: median "
        f"{100 * np.median(promised):+.1f}."
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
