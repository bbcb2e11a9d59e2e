"""What arms cost and win: numbers in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from detaux_pl.report.style import ACCENT, BELOW, INK, MUTED, PAGE, WIDTH, styled
from detaux_pl.report.wording import points


@dataclass(frozen=True)
class Priced:
    """A method with its score and what it costs.

    Args:
        name: Its name.
        mean: Mean score [%].
        interval: Ends of the interval of the mean [%]; None for none.
        costs: What it costs on each axis; None for unknown.
        colour: Its colour.
        marker: Its marker, as matplotlib names them.
        ranked: Whether it may be on the front.
    """

    name: str
    mean: float
    interval: tuple[float, float] | None
    costs: tuple[float | None, ...]
    colour: str
    marker: str
    ranked: bool


@styled
def cost_chart(methods: Sequence[Priced], titles: Sequence[str], ylabel: str) -> Figure:
    """Draw scores against costs, with the front of those that no cheaper method reaches.

    Args:
        methods: The methods, in the order of the legend.
        titles: What each axis of cost measures, with its unit; an axis that is known of no method
            is left out.
        ylabel: What the scores measure, with their unit.
    """
    shown = [k for k in range(len(titles)) if any(each.costs[k] is not None for each in methods)]
    height = max(3.5, 0.5 + 0.21 * len(methods))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, k in zip(panels, shown, strict=True):
        known = [(cost, each) for each in methods if (cost := each.costs[k]) is not None]
        front = pareto_front([(cost, each.mean) for cost, each in known if each.ranked])
        if front:
            axes.step(*zip(*front, strict=True), where="post", color=MUTED, lw=1.1, ls="--")
        for cost, each in known:
            if each.interval is not None:
                axes.plot([cost, cost], each.interval, color=each.colour, lw=1.4, alpha=0.4)
            axes.plot(
                cost, each.mean, each.marker, ms=8, color=each.colour, mew=1.2,
                mec=PAGE, label=each.name,
            )  # fmt: skip
        _scale_costs(axes, [cost for cost, _ in known])
        axes.set_xlabel(f"{titles[k]} (logarithmic)")
        axes.tick_params(length=0, which="both")
    panels[0].set_ylabel(ylabel)
    handles = [
        Line2D([], [], color=each.colour, marker=each.marker, ls="", ms=8, mec=PAGE)
        for each in methods
    ]
    names = [each.name for each in methods]
    figure.legend(handles, names, loc="outside right upper", fontsize=9)
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pick the points (cost, score) that no other one reaches at no higher cost, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


@styled
def gaps_chart(gaps: Mapping[str, Mapping[int, float]]) -> Figure:
    """Draw how far each method is above or below a reference, seed by seed.

    Args:
        gaps: Difference [points] by method, then by seed, in the order to draw; methods may lack
            seeds.
    """
    seeds = sorted({seed for own in gaps.values() for seed in own})
    values = np.array([[own.get(seed, np.nan) for seed in seeds] for own in gaps.values()])
    width = min(WIDTH, 2.6 + 0.62 * len(seeds))
    figure = Figure(figsize=(width, 0.75 + 0.32 * len(gaps)), layout="constrained")
    axes = figure.add_subplot()
    ends = (BELOW, 0.0, 0.85), (BELOW, 0.5, 0.03), (ACCENT, 0.5, 0.03), (ACCENT, 1.0, 0.85)
    stops = [(place, to_rgba(hue, alpha)) for hue, place, alpha in ends]
    colour = LinearSegmentedColormap.from_list("gap", stops)
    most = float(np.nanmax(np.abs(values))) or 1.0
    axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=colour, vmin=-most, vmax=most, edgecolor=PAGE,
        linewidth=1.5,
    )  # fmt: skip
    if len(seeds) <= 16:
        for (y, x), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(
                    x + 0.5, y + 0.5, points(value / 100), ha="center", va="center", fontsize=8.5,
                    color=INK,
                )  # fmt: skip
    step = -(-len(seeds) // 16)
    axes.set_xticks(np.arange(0, len(seeds), step) + 0.5, [str(seed) for seed in seeds[::step]])
    axes.set_xlabel("seed")
    axes.set_yticks(np.arange(len(gaps)) + 0.5, list(gaps), color=INK)
    axes.set_ylim(len(gaps), 0)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _scale_costs(axes: Axes, costs: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic, wide enough to hold more than one labelled tick."""
    low, high = min(costs), max(costs)
    margin = max(1.25, (6 * low / high) ** 0.5)
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    many = (high / low) * margin**2 > 60
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if many else (1.0, 2.0, 5.0)))
    small = StrMethodFormatter("{x:g}")
    axes.xaxis.set_major_formatter(EngFormatter(sep="\N{NO-BREAK SPACE}") if low >= 1e3 else small)
    axes.xaxis.set_minor_formatter(NullFormatter())
