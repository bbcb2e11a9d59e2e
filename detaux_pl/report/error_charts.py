"""Pictures of where networks err: arrays in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from detaux_pl.report.charts import share_cells
from detaux_pl.report.sheets import shrink
from detaux_pl.report.style import ACCENT, BELOW, INK, LINE, MUTED, PAGE, WIDTH, styled
from detaux_pl.report.wording import percent, short_name

_WRITTEN = 12
"""Classes up to which the shares of a confusion matrix are written into it."""
_TILE = 64
"""Largest side of a picture in a grid [pixels]; larger ones are averaged down."""
_ABREAST = 5
"""Pictures side by side in it."""


@styled
def confusion_chart(
    counts: NDArray[np.int64], totals: NDArray[np.int64], names: Sequence[str]
) -> Figure:
    """Draw which classes are taken for which.

    Args:
        counts: Images by true and predicted class, shape (K, K).
        totals: Images of each true class, shape (K,); a row shows shares of them.
        names: Name of each class.
    """
    n = len(names)
    shown = [short_name(name, 24) for name in names]
    label = 0.5 + 0.075 * max(map(len, shown))  # inches, as what follows
    cell = min(0.5, (WIDTH - label - 0.4) / n)
    row = max(min(cell, 0.36), 0.115)
    font = float(np.clip(60 * row, 6.0, 9.0))
    figure = Figure(figsize=(label + cell * n + 0.4, label + row * n), layout="constrained")
    axes = figure.add_subplot()
    share_cells(axes, counts / np.maximum(totals[:, None], 1), 1.0, n <= _WRITTEN, 0.5)
    axes.set_yticks(np.arange(n) + 0.5, shown, color=INK, fontsize=font)
    step = int(np.ceil(font / 68 / cell))  # columns that one line of text is high
    axes.set_xticks(
        np.arange(0, n, step) + 0.5, shown[::step], fontsize=font, rotation=90, va="bottom"
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_ylim(n, 0)
    axes.set_ylabel("true class")
    axes.set_xlabel("predicted class")
    axes.xaxis.set_label_position("top")
    return figure


@styled
def reliability_chart(panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw how often predictions are right against how sure they are.

    Args:
        panels: By title, bins with their mean `confidence`, `accuracy`, its interval `low` and
            `high`, and number of `images`.
    """
    figure = Figure(figsize=(WIDTH, 0.45 * WIDTH), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, bins) in zip(drawn, panels.items(), strict=True):
        sure, right = (np.array([each[key] for each in bins]) for key in ("confidence", "accuracy"))
        n = np.array([each["images"] for each in bins])
        axes.plot([0, 100], [0, 100], color=MUTED, lw=1, ls="--", zorder=1)
        axes.vlines(100 * sure, 100 * right, 100 * sure, color=BELOW, lw=3, alpha=0.5, zorder=1)
        for each in bins:
            if each["low"] is not None:
                ends = [100 * each["low"], 100 * each["high"]]
                axes.plot([100 * each["confidence"]] * 2, ends, color=ACCENT, lw=1.2)
        axes.scatter(
            100 * sure,
            100 * right,
            s=16 + 160 * n / n.sum(),
            color=ACCENT,
            edgecolor=PAGE,
            zorder=3,
        )
        axes.set_title(title)
        axes.set_xlabel("probability of the predicted class [%]")
        axes.set_xlim(0, 102)
        axes.set_ylim(-2, 102)
        axes.tick_params(length=0)
    drawn[0].set_ylabel("of these are right [%]")
    return figure


@styled
def mistakes_sheet(images: NDArray[np.float32], rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Lay out images that are told wrong, each with what is said and what its label says.

    Args:
        images: In [0, 1], shape (n, C, H, W), n > 0.
        rows: Of each, `true` and `predicted` name and `probability`.
    """
    pictures = [shrink(image, _TILE) for image in images]
    height, breadth = pictures[0].shape[:2]
    lines, edge, caption = -(-len(pictures) // _ABREAST), 0.12, 0.46  # inches
    cell = (WIDTH - edge) / _ABREAST
    wide = min(cell - edge, 1.2 if breadth >= height else 1.2 * breadth / height)
    tall = wide * height / breadth
    size = (WIDTH, lines * (tall + caption + edge))
    figure = Figure(figsize=size)
    letters = int(cell / 0.076)  # of bold print
    for k, (picture, row) in enumerate(zip(pictures, rows, strict=True)):
        line, column = divmod(k, _ABREAST)
        left, top = edge + column * cell, line * (tall + caption + edge)
        axes = figure.add_axes(
            (left / size[0], 1 - (top + tall) / size[1], wide / size[0], tall / size[1])
        )
        # `none` keeps the pixels as they are in the SVG.
        axes.imshow(picture, interpolation="none", aspect="auto")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(visible=True, color=LINE)
        sure = percent(row["probability"], 0)
        _caption(axes, f"{short_name(row['predicted'], letters - len(sure) - 1)} {sure}", 4)
        _caption(axes, f"label: {short_name(row['true'], letters - 7)}", 17, color=MUTED)
    return figure


def _caption(axes: Axes, text: str, drop: float, color: str = INK) -> None:
    """Write below a picture, so many points deep; what is said of it stands out."""
    axes.annotate(
        text, (0, 0), (0, -drop), xycoords="axes fraction", textcoords="offset points", va="top",
        fontsize=8.5, color=color, fontweight="bold" if color == INK else "normal",
    )  # fmt: skip
