"""The pictures of the report: arrays in, matplotlib figures out, no global plotting state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from detaux_pl.evaluation.significance import summarise
from detaux_pl.report.style import ACCENT, INK, LINE, MUTED, PAGE, WIDTH, styled

_WIDE = 1000
"""Dimensions beyond which all principal components take much longer than two."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart with its band.

    Args:
        x: Positions, shape (n,).
        y: Values, shape (n,).
        low: Lower edge of the band, shape (n,); None for no band.
        high: Upper edge.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None


@styled
def arms_chart(accuracies: Mapping[str, Mapping[int, float]], colours: Mapping[str, str]) -> Figure:
    """Draw the accuracy of every arm: a dot per seed, the mean and its 95 % interval.

    Thin lines join the runs of one seed in neighbouring arms.

    Args:
        accuracies: Accuracy by arm, then by seed, in the order to draw; arms may lack seeds.
        colours: Colour of each arm.
    """
    names = [name for name, runs in accuracies.items() if runs]
    figure = Figure(figsize=(WIDTH, 0.75 + 0.5 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for row, name in enumerate(names):
        runs, dots, mean = accuracies[name], row - 0.14, row + 0.14
        if row:
            above = accuracies[names[row - 1]]
            for seed in runs.keys() & above.keys():
                ends = [100 * above[seed], 100 * runs[seed]]
                axes.plot(ends, [dots - 1, dots], color=LINE, lw=0.8, zorder=1)
        values = 100 * np.array(list(runs.values()))
        axes.plot(
            values, np.full(len(values), dots), "o", ms=5.5, alpha=0.55, mew=0, color=colours[name]
        )
        summary = summarise(values)
        if summary.low is not None and summary.high is not None:
            axes.plot([summary.low, summary.high], [mean, mean], color=colours[name], lw=2.6)
        axes.plot(summary.mean, mean, "D", ms=7, color=colours[name], mec=PAGE, mew=1.2)
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("test accuracy [%]")
    return figure


@styled
def contingency_chart(
    tables: Mapping[str, NDArray[np.int64]],
    rows: Sequence[str],
    columns: Mapping[str, Sequence[str]],
) -> Figure:
    """Draw how the members of each cluster are shared out over the values of some factors.

    Args:
        tables: Counts by title (the factor's name), shape (clusters, values) each.
        rows: Name of each cluster.
        columns: By title, name of each value.
    """
    widths = [max(table.shape[1], 4) for table in tables.values()]
    longest = max(len(name) for names in columns.values() for name in names)
    upright = longest > 3  # letters beside one another
    height = 0.9 + 0.3 * min(len(rows), 24) + (0.08 * longest if upright else 0)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(1, len(tables), width_ratios=widths, squeeze=False, sharey=True)[0]
    for axes, (title, counts) in zip(panels, tables.items(), strict=True):
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        share_cells(axes, share, 1.0, written=share.shape[1] <= 12 and len(rows) <= 24)
        step = -(-share.shape[1] // 16)
        names = columns[title][::step]
        places = np.arange(0, share.shape[1], step) + 0.5
        turned = upright and max(map(len, names)) > 3
        axes.set_xticks(places, names, rotation=90 if turned else 0)
        axes.set_xlabel(title)
    step = -(-len(rows) // 24)
    panels[0].set_yticks(np.arange(0, len(rows), step) + 0.5, rows[::step], color=INK)
    panels[0].set_ylim(len(rows), 0)
    return figure


@styled
def codes_chart(
    panels: Mapping[str, NDArray[np.float64]],
    rows: Sequence[str],
    columns: Sequence[str],
    breaks: Sequence[int] = (),
) -> Figure:
    """Draw what codes tell of factors, a panel for each way to measure it.

    The darkest colour is the largest share of a panel, or a quarter where all are smaller.

    Args:
        panels: Shares in [0, 1] by title, shape (codes, factors) each.
        rows: Name of each code.
        columns: Name of each factor.
        breaks: Rows before which a line is drawn.
    """
    label = 0.4 + 0.075 * max(map(len, rows))  # inches, as what follows
    breadth = min(max(0.62 * len(columns), 2.9), (WIDTH - label) / len(panels))
    cell, longest = breadth / len(columns), 0.085 * max(map(len, columns))
    angle = 0 if longest <= cell else 40 if cell >= 0.3 else 90
    head = 0.55 + max(0.2, longest * math.sin(math.radians(angle)))
    size = (label + breadth * len(panels), head + (0.3 if len(rows) <= 24 else 0.23) * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    step = math.ceil(0.16 / cell)
    places = np.arange(0, len(columns), step)
    turned: Any = {"rotation": angle, "rotation_mode": "anchor", "ha": "left"} if angle else {}
    turned |= {"va": "center"} if angle == 90 else {}
    for axes, (title, share) in zip(drawn, panels.items(), strict=True):
        # Shares of one factor may be small where many codes divide it among them.
        share_cells(axes, share, most=max(float(share.max()), 0.25), written=cell >= 0.28)
        for row in breaks:
            axes.axhline(row, color=MUTED, lw=0.8)
        axes.set_xticks(places + 0.5, columns[::step], **turned)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_title(title)
    drawn[0].set_yticks(np.arange(len(rows)) + 0.5, rows, color=INK)
    drawn[0].set_ylim(len(rows), 0)
    return figure


@styled
def kl_chart(kl: Sequence[float], active: Sequence[bool], names: Sequence[str]) -> Figure:
    """Draw what each latent says of an image, those that say the same of all of them muted.

    Args:
        kl: KL divergence of each latent, in the order to draw [nats].
        active: Whether each is active.
        names: Name of each.
    """
    figure = Figure(figsize=(min(WIDTH, 3.2 + 0.3 * len(kl)), 2.5), layout="constrained")
    axes = figure.add_subplot()
    for on, hue, label in ((True, ACCENT, "active"), (False, MUTED, "inactive")):
        places = [place for place, each in enumerate(active) if each == on]
        if places:
            axes.bar(
                places, [kl[place] for place in places], 0.75, color=hue, label=label,
                alpha=1.0 if on else 0.55,
            )  # fmt: skip
    named = len(kl) <= 40
    axes.set_xticks(range(len(kl)) if named else [], names if named else [])
    axes.set_xlim(-0.6, len(kl) - 0.4)
    axes.grid(axis="x", visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("latent")
    axes.set_ylabel("KL divergence [nats]")
    figure.legend(loc="outside right upper", fontsize=9)
    return figure


@styled
def scatter_chart(
    points: NDArray[np.float64],
    panels: Mapping[str, tuple[NDArray[np.int64], Sequence[str]]],
    colours: Sequence[Sequence[str]],
) -> Figure:
    """Draw the same points once per panel, coloured and named by class.

    Args:
        points: Positions, shape (n, 2).
        panels: Title, then class of each point, shape (n,), and the names of the classes.
        colours: Colours of the classes of each panel.
    """
    figure = Figure(figsize=(WIDTH, 0.3 + WIDTH / max(len(panels), 3)), layout="constrained")
    axes_row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, (labels, names)), hues in zip(axes_row, panels.items(), colours, strict=True):
        shown = labels >= 0
        axes.scatter(
            points[shown, 0], points[shown, 1], s=7, linewidths=0, alpha=0.75, rasterized=True,
            c=np.array([to_rgba(hue) for hue in hues])[labels[shown]],
        )  # fmt: skip
        if len(names) <= 12:
            for label, name in enumerate(names):
                # A class that lies all over the plane has no place for its name.
                if _spread(points[labels == label]) < 0.6 * _spread(points):
                    x, y = np.median(points[labels == label], axis=0)
                    axes.text(
                        x, y, name, ha="center", va="center", fontsize=8, fontweight="bold",
                        bbox={"facecolor": PAGE, "alpha": 0.75, "lw": 0,
                              "boxstyle": "round,pad=.15"},
                    )  # fmt: skip
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[["top", "right"]].set_visible(True)
    return figure


@styled
def curves_chart(
    curves: Mapping[str, Curve],
    colours: Mapping[str, str],
    ylabel: str,
    log: bool = False,
    dashed: Sequence[str] = (),
) -> Figure:
    """Draw named lines over the epochs.

    Args:
        curves: The lines, in the order of the legend.
        colours: Colour of each line.
        ylabel: What the lines measure, with its unit.
        log: Use a logarithmic axis where the values span a decade; those that are not positive
            leave gaps.
        dashed: Names of the lines to dash.
    """
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot(
            curve.x, curve.y, label=name, ls="--" if name in dashed else "-",
            marker="o" if len(curve.y) < 3 else None,
            color=colours[name], lw=1.7,
        )  # fmt: skip
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=colours[name], alpha=0.15, lw=0)
    positive = np.concatenate([curve.y[curve.y > 0] for curve in curves.values()])
    if log and positive.size and positive.max() >= 10 * positive.min():
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        ylabel = f"{ylabel} (logarithmic)"
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(length=0, which="both")
    figure.legend(loc="outside right upper", fontsize=9)
    return figure


def project(codes: NDArray[np.float32], seed: int = 0) -> NDArray[np.float64]:
    """Project codes onto their first two principal components, shape (n, 2).

    Codes of one dimension are spread over the second axis at random.

    Args:
        codes: Codes, shape (n, D).
        seed: Seed of the spreading.
    """
    centred = codes.astype(np.float64) - codes.mean(axis=0, dtype=np.float64)
    if centred.shape[1] == 1:
        spread = np.random.default_rng(seed).uniform(size=len(codes))
        return np.column_stack([centred[:, 0], spread])
    if centred.shape[1] > _WIDE:
        from scipy.sparse.linalg import svds

        axes = svds(centred, k=2, v0=np.ones(min(centred.shape)), return_singular_vectors="vh")[2].T
    else:
        _, axes = np.linalg.eigh(centred.T @ centred)
    # Both in ascending order.
    points: NDArray[np.float64] = centred @ axes[:, :-3:-1]
    return points


def share_cells(
    axes: Axes, share: NDArray[np.float64], most: float, written: bool, power: float = 1.0
) -> None:
    """Fill a panel with cells, darkest at the share `most`, and write the shares in per cent.

    Args:
        axes: The panel.
        share: Shares in [0, 1], shape (rows, columns).
        most: The share that is darkest.
        written: Whether shares are written.
        power: Of the share, to which darkness is proportional: below 1 small shares are seen.
    """
    colour = LinearSegmentedColormap.from_list(
        "share", [to_rgba(ACCENT, 0.03), to_rgba(ACCENT, 0.8)]
    )
    axes.pcolormesh(
        share, cmap=colour, norm=PowerNorm(power, 0, most), edgecolor=PAGE,
        linewidth=1.5 if share.size <= 900 else 0.4, rasterized=share.size > 900,
    )  # fmt: skip
    if written:
        for (y, x), value in np.ndenumerate(share):
            if value >= 0.005:
                axes.text(
                    x + 0.5, y + 0.5, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                    color=INK,
                )  # fmt: skip
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _spread(points: NDArray[np.float64]) -> float:
    """Root mean square distance from the mean; infinite for no point."""
    return float(np.sqrt(points.var(axis=0).sum())) if len(points) else float("inf")
