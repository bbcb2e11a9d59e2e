"""Losses and accuracies by epoch."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.report.charts import Curve, curves_chart
from detaux_pl.report.markup import html_chart
from detaux_pl.report.section import Charts, Part, Picture, Report, Section, View
from detaux_pl.report.sections.arms import arm_colours
from detaux_pl.report.style import ACCENT, class_colours
from detaux_pl.settings.names import arm_folder


def _draw(view: View, report: Report) -> Iterator[Picture]:
    curves = _read_curves(view.run_dir / "disentangle" / "metrics.csv")
    losses = {name: curves[name] for name in curves if name.startswith("train/")}
    if losses:
        if "val/loss" in curves:
            losses["val/loss"] = curves["val/loss"]
        names = dict(zip(losses, class_colours(len(losses)), strict=True))
        names |= {"train/loss": ACCENT, "val/loss": ACCENT} if "train/loss" in losses else {}
        yield Picture(
            "losses",
            "Losses of the disentanglement by epoch",
            curves_chart(losses, names, "loss", log=True, dashed=["val/loss"]),
        )
    accuracy = {
        name: curve
        for name, arm in report["arms"].items()
        if (curve := _mean_curve(view.run_dir / arm_folder(name), arm["seeds"])) is not None
    }
    if accuracy:
        hues = arm_colours(report["arms"])
        yield Picture(
            "accuracy",
            "Validation accuracy of every arm by epoch",
            curves_chart(accuracy, hues, "validation accuracy [%]"),
        )


def _read_curves(path: Path) -> dict[str, Curve]:
    """Read the columns of a CSVLogger's record, each by epoch; its last value counts."""
    if not path.is_file():
        return {}
    values: dict[str, dict[int, float]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                epoch = int(row["epoch"])
                for name, text in row.items():
                    if text and name not in ("epoch", "step") and not name.endswith("_step"):
                        values.setdefault(name.removesuffix("_epoch"), {})[epoch] = float(text)
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ArtifactError(
            f"{path} is no record of a training ({type(error).__name__}): restore it."
        ) from None
    return {
        name: Curve(np.array(list(of), dtype=float), np.array(list(of.values())))
        for name, of in values.items()
    }


def _mean_curve(folder: Path, seeds: Sequence[int]) -> Curve | None:
    """Mean validation accuracy over seeds with their range, over the epochs that all have."""
    runs = [
        curves["val/accuracy/principal"]
        for seed in seeds
        if "val/accuracy/principal" in (curves := _read_curves(folder / f"seed{seed}/metrics.csv"))
    ]
    if not runs:
        return None
    n = min(len(run.x) for run in runs)
    values = 100 * np.stack([run.y[:n] for run in runs])
    return Curve(runs[0].x[:n], values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _body(report: Report, charts: Charts) -> str:
    return html_chart(
        charts, "losses", "Terms as they are logged.", "Disentanglement"
    ) + html_chart(
        charts, "accuracy", "Mean over the seeds; the band is their range.", "Multi-task training"
    )


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("training", "Training", _body(report, charts))]


SECTION = Section(
    place=100,
    render=_render,
    draw=_draw,
)
