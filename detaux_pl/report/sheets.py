"""Sheets of images: arrays in, matplotlib figures out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from detaux_pl.report.style import MUTED, WIDTH, styled

_TILE = 48
"""Largest side of an image in a sheet [pixels]; larger ones are averaged down."""
_PIXELS = 250_000
"""Pixels of a sheet, at most: the page shall stay light."""


@dataclass(frozen=True)
class SheetRow:
    """One row of a sheet of images.

    Args:
        title: Name of the row.
        detail: Smaller second line.
        images: Images in [0, 1], shape (n, C, H, W).
        colour: Colour of the mark beside the title; None for no mark.
    """

    title: str
    detail: str
    images: NDArray[np.float32]
    colour: str | None = None


@styled
def image_sheet(rows: Sequence[SheetRow], columns: Sequence[str] = ()) -> Figure:
    """Lay out rows of images.

    Args:
        rows: The rows, at least one of them with an image; all images of one size.
        columns: Title of each column; none where empty.
    """
    width = max(len(row.images) for row in rows)
    height, breadth = next(row.images.shape[2:] for row in rows if len(row.images))
    crowd = (len(rows) * width * height * breadth / _PIXELS) ** 0.5
    small = max(math.ceil(max(height, breadth) / _TILE), math.ceil(crowd))
    height, breadth = height // small, breadth // small
    gap = max(1, round(0.06 * height))
    mosaic = np.zeros((len(rows) * (height + gap), width * (breadth + gap), 4))
    for r, row in enumerate(rows):
        for c, image in enumerate(row.images):
            top, left = r * (height + gap), c * (breadth + gap)
            mosaic[top : top + height, left : left + breadth, 3] = 1.0
            mosaic[top : top + height, left : left + breadth, :3] = _rgb(image, small)
    label, head = 1.7, 0.26 if columns else 0.04  # inches
    tile = min((WIDTH - label) / width, 0.8)
    aspect = (height + gap) / (breadth + gap)
    size = (label + width * tile, head + len(rows) * tile * aspect)
    figure = Figure(figsize=size)
    axes = figure.add_axes(
        (label / size[0], 0.0, 1 - label / size[0], 1 - head / size[1]), frameon=False
    )
    # `none` keeps the pixels as they are in the SVG: sharp at every zoom.
    axes.imshow(mosaic, interpolation="none", aspect="auto")
    axes.set_axis_off()
    for c, title in enumerate(columns):
        x = c * (breadth + gap) + breadth / 2
        axes.annotate(
            title, (x, 0), (0, 5), textcoords="offset points", ha="center", va="bottom",
            color=MUTED, fontsize=9,
        )  # fmt: skip
    for r, row in enumerate(rows):
        y = r * (height + gap) + height / 2
        if row.colour is not None:
            _label(axes, "■", y, (2 - 72 * label, 0), color=row.colour)
        lines = len(row.detail.splitlines())
        _label(axes, row.title, y, (18 - 72 * label, 6 * lines))
        _label(axes, row.detail, y, (18 - 72 * label, -7), color=MUTED, fontsize=8.5)
    return figure


@styled
def strip_sheet(rows: Sequence[SheetRow], columns: int = 1) -> Figure:
    """Lay out strips of images, each under its title, as large as fits.

    Args:
        rows: The strips, at least one, each with an image; all images of one size.
        columns: How many strips lie side by side.
    """
    longest = max(len(row.images) for row in rows)
    height, breadth = rows[0].images.shape[2:]
    gap = max(1, round(0.04 * breadth))
    detailed = any(row.detail for row in rows)
    edge, head = 0.12, 0.44 if detailed else 0.26  # inches, as what follows
    cell = (WIDTH - edge) / columns
    wide = min(cell - edge, 1.0 * longest)
    tall = wide / longest * height / breadth
    lines = -(-len(rows) // columns)
    size = (edge + columns * (wide + edge), edge + lines * (head + tall + edge))
    figure = Figure(figsize=size)
    for k, row in enumerate(rows):
        line, column = divmod(k, columns)
        left, top = edge + column * (wide + edge), edge + line * (head + tall + edge) + head
        mosaic = np.zeros((height, longest * (breadth + gap) - gap, 4), np.float32)
        for c, image in enumerate(row.images):
            here = mosaic[:, c * (breadth + gap) :][:, :breadth]
            here[..., :3], here[..., 3] = _rgb(image, 1), 1.0
        axes = figure.add_axes(
            (left / size[0], 1 - (top + tall) / size[1], wide / size[0], tall / size[1])
        )
        axes.imshow(mosaic, aspect="auto")
        axes.set_axis_off()
        indent, rise = 0 if row.colour is None else 11, 19 if detailed else 5  # points
        for text, offset, style in (
            ("■", (0, rise), {"color": row.colour or "none"}),
            (row.title, (indent, rise), {"fontweight": "bold"}),
            (row.detail, (0, 6), {"color": MUTED, "fontsize": 8.5}),
        ):
            axes.annotate(
                text, (0, 1), offset, xycoords="axes fraction", textcoords="offset points", **style
            )
    return figure


def shrink(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Average an image of shape (C, H, W) down until no side is longer, as (h, w, 3)."""
    return _rgb(image, min(math.ceil(max(image.shape[1:]) / side), *image.shape[1:]))


def _label(axes: Axes, text: str, y: float, offset: tuple[float, float], **style: Any) -> None:
    """Write beside row `y` of a sheet, at an offset from its left edge [points]."""
    axes.annotate(
        text, (0, y), offset, xycoords=("axes fraction", "data"), textcoords="offset points",
        va="center", **style,
    )  # fmt: skip


def _rgb(image: NDArray[np.float32], small: int) -> NDArray[np.float32]:
    """Turn an image (C, H, W) into (H / small, W / small, 3) by averaging blocks."""
    channels, height, width = image.shape
    height, width = height // small, width // small
    blocks = image[:, : height * small, : width * small]
    mean = blocks.reshape(channels, height, small, width, small).mean(axis=(2, 4))
    colour = mean[:3] if channels >= 3 else np.repeat(mean[:1], 3, axis=0)
    rgb: NDArray[np.float32] = np.clip(colour, 0.0, 1.0).transpose(1, 2, 0)
    return rgb
