"""The curves of a sweep: every result over a parameter."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator

from detaux_pl.report.style import PALETTE, WIDTH, styled

_SPAN = 20.0
"""Ratio of the largest value of a parameter to the smallest beyond which its axis is
logarithmic; it is too where every value is at least `_STEP` times the one before."""
_STEP = 1.9
_ACROSS = 3
"""Panels side by side."""
_TICKS = 8
"""Values that are marked on the axis one by one, at most."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Line:
    """Trials that are equal but for the parameter of the axis and the seed.

    Args:
        name: What they have in common; empty for nothing.
        points: Results by value of the parameter, one per seed, for every panel.
        joined: Whether the means are joined, as they are where nothing else differs.
    """

    name: str
    points: Mapping[str, Mapping[float, Sequence[float]]]
    joined: bool = True


@styled
def sweep_chart(lines: Sequence[Line], panels: Mapping[str, str], xlabel: str) -> Figure:
    """Draw a panel for every result: the trials, their means over the seeds and a band around.

    Args:
        lines: What is drawn, in the order of the legend.
        panels: Title of each panel, by the name of its result.
        xlabel: Name of the parameter.
    """
    rows = -(-len(panels) // _ACROSS)
    across = min(_ACROSS, len(panels))
    named = [line.name for line in lines if line.name]
    legend = 0.25 * -(-len(named) // 3) + 0.1 if named else 0.0  # inches
    size = (WIDTH * across / _ACROSS, 2.15 * rows + legend)
    figure = Figure(figsize=size, layout="constrained")
    drawn = figure.subplots(rows, across, squeeze=False).ravel()
    values = sorted({x for line in lines for own in line.points.values() for x in own})
    for axes in drawn[len(panels) :]:
        axes.set_axis_off()
    for axes, (result, title) in zip(drawn, panels.items(), strict=False):
        for k, line in enumerate(lines):
            _draw(axes, line, result, k)
        _scale(axes, values)
        axes.set_title(textwrap.fill(title, 34))
        axes.tick_params(length=0, which="both")
    for axes in drawn[max(0, len(panels) - across) : len(panels)]:
        axes.set_xlabel(xlabel)
    if named:
        handles = [
            Line2D([], [], color=_colour(k), marker=_marker(k), ls="-" if line.joined else "")
            for k, line in enumerate(lines)
        ]
        figure.legend(handles, named, loc="outside lower left", ncols=3, fontsize=9)
    return figure


def _draw(axes: Axes, line: Line, result: str, k: int) -> None:
    points = line.points.get(result, {})
    if not points:
        return
    places = sorted(points)
    hue = _colour(k)
    x = np.concatenate([np.full(len(points[place]), place) for place in places])
    y = np.concatenate([np.asarray(points[place], dtype=np.float64) for place in places])
    if len(y) > len(places) or not line.joined:
        alpha = 0.35 if line.joined else 0.75
        axes.plot(x, y, _marker(k), ms=4, color=hue, alpha=alpha, mew=0, zorder=3)
    if not line.joined:
        return
    mean = np.array([np.mean(points[place]) for place in places])
    std = np.array([np.std(points[p], ddof=1) if len(points[p]) > 1 else 0.0 for p in places])
    axes.plot(places, mean, marker=_marker(k), ms=4.5, color=hue, lw=1.7, zorder=4)
    if std.any():
        axes.fill_between(places, mean - std, mean + std, color=hue, alpha=0.15, lw=0)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Mark the values of the parameter, few of them one by one."""
    pairs = list(itertools.pairwise(values))
    geometric = len(pairs) > 1 and all(after >= _STEP * before for before, after in pairs)
    log = values[0] > 0 and (geometric or values[-1] > _SPAN * values[0])
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    large = values[-1] >= 1e4
    if len(values) <= _TICKS:
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_minor_locator(NullLocator())
    if large:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    elif not log or len(values) <= _TICKS:
        axes.xaxis.set_major_formatter("{x:g}")


def _colour(k: int) -> str:
    return PALETTE[k % len(PALETTE)]


def _marker(k: int) -> str:
    return _MARKERS[k // len(PALETTE) % len(_MARKERS)]
