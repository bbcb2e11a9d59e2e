"""How the pictures of the report look, and how they become files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

ACCENT = "#4c78d8"
MUTED = "#6e7781"
PALETTE = (
    ACCENT, "#e4803a", "#3aa676", "#c65094", "#8a6fd1",
    "#b8921f", "#2ba3b8", "#d9534f", "#7d9b3c", "#a0694a",
)  # fmt: skip
"""Ten hues of like lightness, legible on a white and on a black page."""
BELOW = PALETTE[1]
"""Hue of what falls short, where more is in the accent."""
INK, LINE, PAGE = "#1f2328", "#d0d7de", "#fdfdfe"
# Neutral colours that an inline SVG takes from the page, which knows whether it is dark.
_THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAGE: "var(--card)"}
_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # a factor's name may hold a dollar sign
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "svg.fonttype": "none",  # the text of the charts is set in the page's own font
}
WIDTH = 9.6
"""Width of the charts: that of the page [inches]."""
PNG_DPI = 120
"""Pixels of a picture to the inch."""
_P = ParamSpec("_P")


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw under the style of the report and leave matplotlib's settings as they were."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def class_colours(n: int, noise_class: int | None = None) -> list[str]:
    """Return one colour for each of n classes, grey for the noise class."""
    if n <= len(PALETTE) + (noise_class is not None):
        hues = iter(PALETTE)
    else:
        spaced = mpl.colormaps["turbo"](np.linspace(0.05, 0.95, n))
        hues = iter([mpl.colors.to_hex(colour) for colour in spaced])
    return [MUTED if label == noise_class else next(hues) for label in range(n)]


@contextmanager
def _any_letters() -> Iterator[None]:
    """Take names in letters that matplotlib's font lacks: the page is set in the reader's fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        yield


def to_png(figure: Figure) -> bytes:
    """Render a figure for slides and papers, on white."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE), _any_letters():
        figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor="white")
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
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), _any_letters():
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
