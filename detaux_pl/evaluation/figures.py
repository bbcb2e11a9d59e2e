"""The pictures of the report: arrays in, matplotlib figures out, no global plotting state."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from detaux_pl.evaluation.significance import summarise
from detaux_pl.evaluation.wording import points

ACCENT = "#4c78d8"
MUTED = "#6e7781"
PALETTE = (
    ACCENT, "#e4803a", "#3aa676", "#c65094", "#8a6fd1",
    "#b8921f", "#2ba3b8", "#d9534f", "#7d9b3c", "#a0694a",
)  # fmt: skip
"""Ten hues of like lightness, legible on a white and on a black page."""
_BELOW = PALETTE[1]
"""Hue of what falls short, where more is in the accent."""
_INK, _LINE, _PAGE = "#1f2328", "#d0d7de", "#fdfdfe"
# Neutral colours that an inline SVG takes from the page, which knows whether it is dark.
_THEMED = {_INK: "var(--ink)", MUTED: "var(--muted)", _LINE: "var(--line)", _PAGE: "var(--card)"}
_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": _LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "text.parse_math": False,  # a factor's name may hold a dollar sign
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "svg.fonttype": "none",  # the text of the charts is set in the page's own font
}
WIDTH = 9.6
"""Width of the charts: that of the page [inches]."""
_TILE = 48
"""Largest side of an image in a sheet [pixels]; larger ones are averaged down."""
_WIDE = 1000
"""Dimensions beyond which all principal components take much longer than two."""
_PIXELS = 250_000
"""Pixels of a sheet, at most: the page shall stay light."""

_P = ParamSpec("_P")


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw under the style of the report and leave matplotlib's settings as they were."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


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


def class_colours(n: int, noise_class: int | None = None) -> list[str]:
    """Return one colour for each of n classes, grey for the noise class."""
    if n <= len(PALETTE) + (noise_class is not None):
        hues = iter(PALETTE)
    else:
        spaced = mpl.colormaps["turbo"](np.linspace(0.05, 0.95, n))
        hues = iter([mpl.colors.to_hex(colour) for colour in spaced])
    return [MUTED if label == noise_class else next(hues) for label in range(n)]


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
                axes.plot(ends, [dots - 1, dots], color=_LINE, lw=0.8, zorder=1)
        values = 100 * np.array(list(runs.values()))
        axes.plot(
            values, np.full(len(values), dots), "o", ms=5.5, alpha=0.55, mew=0, color=colours[name]
        )
        summary = summarise(values)
        if summary.low is not None and summary.high is not None:
            axes.plot([summary.low, summary.high], [mean, mean], color=colours[name], lw=2.6)
        axes.plot(summary.mean, mean, "D", ms=7, color=colours[name], mec=_PAGE, mew=1.2)
    axes.set_yticks(range(len(names)), names, color=_INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("test accuracy [%]")
    return figure


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


@styled
def contingency_chart(tables: Mapping[str, NDArray[np.int64]], rows: Sequence[str]) -> Figure:
    """Draw how the members of each cluster are shared out over the values of some factors.

    Args:
        tables: Counts by title (the factor's name), shape (clusters, values) each.
        rows: Name of each cluster.
    """
    widths = [max(table.shape[1], 4) for table in tables.values()]
    height = 0.9 + 0.3 * min(len(rows), 24)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(1, len(tables), width_ratios=widths, squeeze=False, sharey=True)[0]
    for axes, (title, counts) in zip(panels, tables.items(), strict=True):
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        _share_cells(axes, share, 1.0, written=share.shape[1] <= 12 and len(rows) <= 24)
        step = -(-share.shape[1] // 16)
        values = np.arange(0, share.shape[1], step)
        axes.set_xticks(values + 0.5, [str(value) for value in values])
        axes.set_xlabel(title)
    step = -(-len(rows) // 24)
    panels[0].set_yticks(np.arange(0, len(rows), step) + 0.5, rows[::step], color=_INK)
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
        _share_cells(axes, share, most=max(float(share.max()), 0.25), written=cell >= 0.28)
        for row in breaks:
            axes.axhline(row, color=MUTED, lw=0.8)
        axes.set_xticks(places + 0.5, columns[::step], **turned)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_title(title)
    drawn[0].set_yticks(np.arange(len(rows)) + 0.5, rows, color=_INK)
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
                        bbox={"facecolor": _PAGE, "alpha": 0.75, "lw": 0,
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
                mec=_PAGE, label=each.name,
            )  # fmt: skip
        _scale_costs(axes, [cost for cost, _ in known])
        axes.set_xlabel(f"{titles[k]} (logarithmic)")
        axes.tick_params(length=0, which="both")
    panels[0].set_ylabel(ylabel)
    handles = [
        Line2D([], [], color=each.colour, marker=each.marker, ls="", ms=8, mec=_PAGE)
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
    ends = (_BELOW, 0.0, 0.85), (_BELOW, 0.5, 0.03), (ACCENT, 0.5, 0.03), (ACCENT, 1.0, 0.85)
    stops = [(place, to_rgba(hue, alpha)) for hue, place, alpha in ends]
    colour = LinearSegmentedColormap.from_list("gap", stops)
    most = float(np.nanmax(np.abs(values))) or 1.0
    axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=colour, vmin=-most, vmax=most, edgecolor=_PAGE,
        linewidth=1.5,
    )  # fmt: skip
    if len(seeds) <= 16:
        for (y, x), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(
                    x + 0.5, y + 0.5, points(value / 100), ha="center", va="center", fontsize=8.5,
                    color=_INK,
                )  # fmt: skip
    step = -(-len(seeds) // 16)
    axes.set_xticks(np.arange(0, len(seeds), step) + 0.5, [str(seed) for seed in seeds[::step]])
    axes.set_xlabel("seed")
    axes.set_yticks(np.arange(len(gaps)) + 0.5, list(gaps), color=_INK)
    axes.set_ylim(len(gaps), 0)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
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


def to_png(figure: Figure) -> bytes:
    """Render a figure for slides and papers, on white."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    return buffer.getvalue()


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """Render a figure for a page that defines `--ink`, `--muted`, `--line` and `--card`.

    The result refers to nothing outside itself, is the same in every run, and shares no id with
    a figure of another name.

    Args:
        figure: The figure.
        name: Unique name of the figure on its page.
        alt: What the figure shows, for those who do not see it.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", dpi=150, transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )  # fmt: skip
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    for colour, variable in _THEMED.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1).strip()


def _share_cells(axes: Axes, share: NDArray[np.float64], most: float, written: bool) -> None:
    """Fill a panel with cells, darkest at the share `most`, and write the shares in per cent."""
    colour = LinearSegmentedColormap.from_list(
        "share", [to_rgba(ACCENT, 0.03), to_rgba(ACCENT, 0.8)]
    )
    axes.pcolormesh(
        share, cmap=colour, vmin=0, vmax=most, edgecolor=_PAGE, linewidth=1.5,
        rasterized=share.size > 900,
    )  # fmt: skip
    if written:
        for (y, x), value in np.ndenumerate(share):
            if value >= 0.005:
                axes.text(
                    x + 0.5, y + 0.5, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                    color=_INK,
                )  # fmt: skip
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _spread(points: NDArray[np.float64]) -> float:
    """Root mean square distance from the mean; infinite for no point."""
    return float(np.sqrt(points.var(axis=0).sum())) if len(points) else float("inf")


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
