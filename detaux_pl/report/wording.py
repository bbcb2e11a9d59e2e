"""How the numbers of a report are put into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from detaux_pl.evaluation.significance import LEVEL
from detaux_pl.metrics.metric import Score
from detaux_pl.metrics.records import RECORDS, SCORES, find_score

SHUFFLED = "shuffled"
"""Name of the arm that learns the auxiliary labels dealt out at random."""


@dataclass(frozen=True)
class Verdict:
    """What a run has shown.

    Args:
        tone: `gain`, `loss`, `none` (no difference shown) or `open` (it cannot be said).
        headline: The one sentence.
        details: What qualifies it, one sentence each.
    """

    tone: Literal["gain", "loss", "none", "open"]
    headline: str
    details: tuple[str, ...]


def verdict(report: Mapping[str, Any]) -> Verdict:
    """Say in words what the numbers of a report show, in favour or not.

    Args:
        report: The content of `report.json`.
    """
    tone, headline = _headline(report)
    details = [
        _control(report, tone), _ceiling(report), _meaning(report), collapse_text(report),
        _missing(report),
    ]  # fmt: skip
    return Verdict(tone, headline, tuple(text for text in details if text))


def collapse_text(report: Mapping[str, Any]) -> str:
    """Say how many latents of a VAE are dead, and what to try; nothing where none is.

    Args:
        report: The content of `report.json`.
    """
    posterior = report.get("posterior")
    if posterior is None or posterior["active_units"] == posterior["n_latents"]:
        return ""
    n, total = posterior["active_units"], posterior["n_latents"]
    remedy = "a smaller weight of the KL divergence (beta), another learning rate or more steps"
    if n <= 1:
        return (
            f"Posterior collapse: {n or 'none'} of {plural(total, 'latent')} is active, so the "
            f"codes say {'little' if n else 'nothing'} of an image. Try {remedy}."
        )
    return (
        f"{n} of {total} latents are active; the codes of the inactive hardly change from image to "
        f"image and tell nothing. Where reconstructions lack what matters, try {remedy}."
    )


def score_text(key: str) -> Score:
    """Say how to read a score; one that is not known goes by its own name.

    Args:
        key: Name of a score, or of a metric, in `metrics.json`.
    """
    if key in RECORDS and key not in SCORES:
        return Score(RECORDS[key].name, "", None)
    return find_score(key)


def code_name(index: int, dims: int) -> str:
    """Name a code among those of all subspaces: `latent 3`, `subspace 1 · dim 4`.

    Args:
        index: Its index among the K D dimensions.
        dims: Dimensions D of a subspace.
    """
    if dims == 1:
        return f"latent {index}"
    return f"subspace {index // dims} · dim {index % dims}"


def accuracy_text(arm: Mapping[str, Any]) -> str:
    """Write the accuracy of an arm with half the width of its interval: `28.8 ± 1.2 %`."""
    if arm["accuracy_mean"] is None:
        diverged = set(arm.get("diverged_seeds", ()))
        every = diverged and diverged.issuperset(arm["missing_seeds"])
        return "diverged" if every else "did not finish"
    if arm["ci95"] is None:
        return percent(arm["accuracy_mean"])
    half = (arm["ci95"][1] - arm["ci95"][0]) / 2
    return f"{100 * arm['accuracy_mean']:.1f} ± {percent(half)}"


def missing_text(arm: Mapping[str, Any]) -> str:
    """Name the seeds that an arm lacks: `1, 3 (diverged)`."""
    diverged = set(arm.get("diverged_seeds", ()))
    return ", ".join(
        f"{seed} (diverged)" if seed in diverged else str(seed) for seed in arm["missing_seeds"]
    )


def percent(share: float, digits: int = 1) -> str:
    """Write a share as a percentage: 0.2881 -> 28.8 %."""
    return f"{100 * share:.{digits}f} %"


def range_text(low: float, high: float) -> str:
    """Write an interval of shares in per cent: 66.2 to 74.5 %."""
    return f"{100 * low:.1f} to {percent(high)}"


def short_name(name: str, length: int) -> str:
    """Fit the name of a class into one line of so many letters, at least 4: `lesser…woodpecker`.

    Both ends are kept, as names are often told apart by the last letters.
    """
    line = " ".join(name.split())
    if len(line) <= length:
        return line
    end = (length - 1) // 2
    return f"{line[: length - 1 - end]}\N{HORIZONTAL ELLIPSIS}{line[-end:]}"


def points(share: float) -> str:
    """Write a difference of shares in percentage points, with its sign: 0.075 -> +7.5."""
    rounded = round(100 * share, 1) + 0.0  # no negative zero
    return f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}")


def p_text(p: float) -> str:
    """Write a p-value for a table: `0.031`, `< 0.0001`."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 1e-3 else f"{p:.3f}"


def p_clause(p: float) -> str:
    """Write a p-value for a sentence: `p = 0.031`, `p < 0.0001`."""
    return f"p {p_text(p)}" if p < 1e-4 else f"p = {p_text(p)}"


def plural(n: int, noun: str) -> str:
    """Write a count with its noun: 1 seed, 5 seeds."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _headline(report: Mapping[str, Any]) -> tuple[Literal["gain", "loss", "none", "open"], str]:
    arms, main, baseline = report["arms"], report["main"], report["baseline"]
    if baseline is None:
        return "open", "No verdict: the run has no baseline to compare with."
    for name in (main, baseline):
        if not arms[name]["seeds"]:
            return "open", f"No verdict: no run of {name} finished."
    gap, interval, p = (arms[main][k] for k in ("difference", "difference_ci95", "p_value"))
    if gap is None:
        return "open", f"No verdict: {main} and {baseline} have no seed in common."
    common = set(arms[main]["seeds"]) & set(arms[baseline]["seeds"])
    after, before = (percent(_mean_over(common, arms[name])) for name in (main, baseline))
    what = f"{report['principal']} accuracy"
    task, how = "The discovered task", "with the discovered task"
    if (erasures := report.get("erasures")) is not None:
        task, how = "Erasing the discovered groups", "with the discovered groups erased"
        if not erasures["verdict"]["found"]:
            return "none", (
                f"The discovered groups are better left: {what} is {before} with the features as "
                "they are."
            )
    rest = " over the test images"
    if interval is None or p is None:
        # What is fitted at once has no seeds that differ: the images are what varies.
        together = arms[main].get("ensemble") if erasures is not None else None
        interval = None if together is None else together["difference_ci95"]
        if interval is None:
            return "open", (
                f"One seed only: {what} is {after} {how} and {before} without "
                f"({points(gap)} points), which allows no test."
            )
        sure = not interval[0] <= 0 <= interval[1]
    else:
        rest = f", {p_clause(p)} over {plural(len(common), 'seed')}"
        sure = p < LEVEL
    ends = f"95 % CI {points(interval[0])} to {points(interval[1])}"
    evidence = f"({points(gap)} points, {ends}{rest})"
    if not sure:
        return "none", f"No gain shown: {what} is {after} {how} and {before} without {evidence}."
    if gap > 0:
        return "gain", f"{task} raises {what} from {before} to {after} {evidence}."
    return "loss", f"{task} lowers {what} from {before} to {after} {evidence}."


def _mean_over(seeds: set[int], arm: Mapping[str, Any]) -> float:
    runs = dict(zip(arm["seeds"], arm["accuracies"], strict=True))
    return float(sum(runs[seed] for seed in seeds)) / len(seeds)


def _control(report: Mapping[str, Any], tone: str) -> str:
    arm = report["arms"].get(SHUFFLED)
    main = report["arms"][report["main"]]
    if arm is None or not arm["accuracies"] or not main["accuracies"]:
        return ""
    reached = percent(arm["accuracy_mean"])
    p = main["p_value_shuffled"]
    if p is None:
        return f"The same labels dealt out at random reach {reached}."
    if p >= LEVEL or main["accuracy_mean"] <= arm["accuracy_mean"]:
        lesson = "no benefit of their meaning is shown"
    elif tone == "gain":
        lesson = "it is their meaning that helps"
    else:
        lesson = "their meaning counts, but does not show in a gain"
    return f"The same labels dealt out at random reach {reached} ({p_clause(p)}): {lesson}."


def _ceiling(report: Mapping[str, Any]) -> str:
    reached = {
        name: arm["accuracy_mean"]
        for name, arm in report["arms"].items()
        if arm["kind"] == "ceiling" and arm["accuracies"]
    }
    if not reached:
        return ""
    listed = ", ".join(f"{name} {percent(value)}" for name, value in reached.items())
    return f"With the true labels of a hidden factor as auxiliary task: {listed}."


def _meaning(report: Mapping[str, Any]) -> str:
    task, principal = report["auxiliary"], report["principal"]
    nmi = task["nmi_principal"]
    relation = (
        "nearly independent of" if nmi <= 0.05 else "weakly tied to" if nmi <= 0.2 else "tied to"
    )
    text = (
        f"The task has {plural(task['n_clusters'], 'cluster')}, {relation} {principal} "
        f"(NMI {nmi:.3f})"
    )
    best = task["best_factor"]
    if best is None:
        return f"{text}."
    nmi = task["factors"][best]["nmi"]
    follows = (
        f"they follow {best}" if nmi >= 0.5
        else f"they partly follow {best}" if nmi >= 0.2
        else f"no known factor explains them; closest is {best}"
    )  # fmt: skip
    return f"{text}; {follows} (NMI {nmi:.2f})."


def _missing(report: Mapping[str, Any]) -> str:
    gaps = [
        f"{name} (seed {missing_text(arm)})"
        for name, arm in report["arms"].items()
        if arm["missing_seeds"]
    ]
    return f"Did not finish: {'; '.join(gaps)}." if gaps else ""
