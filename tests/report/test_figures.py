from __future__ import annotations

import base64
import io
import re

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from detaux_pl.report import charts
from detaux_pl.report.charts import (
    Curve,
    arms_chart,
    codes_chart,
    contingency_chart,
    curves_chart,
    kl_chart,
    project,
    scatter_chart,
)
from detaux_pl.report.sheets import SheetRow, image_sheet
from detaux_pl.report.style import ACCENT, MUTED, WIDTH, class_colours, to_png, to_svg


def sheet(images, **kwargs):
    return image_sheet([SheetRow("row", "", images)], **kwargs)


def embedded(svg):
    """The pixels of the one picture inside an SVG."""
    (data,) = re.findall(r'base64,([^"]+)', svg)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


def test_sheet_keeps_every_pixel():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16)).astype(np.float32) / 255
    pixels = embedded(to_svg(sheet(images), "sheet", "images"))
    tiles = pixels[:, :, :3].astype(float)
    assert pixels.shape == (17, 51, 4)
    for k, image in enumerate(images):
        tile = tiles[:16, 17 * k : 17 * k + 16]
        np.testing.assert_allclose(tile / 255, image.transpose(1, 2, 0), atol=1.01 / 255)


def test_sheet_pads_short_rows_and_allows_empty_ones():
    rows = [
        SheetRow("a", "two\nlines", np.ones((2, 1, 8, 8), np.float32), "#123456"),
        SheetRow("b", "", np.ones((1, 1, 8, 8), np.float32)),
        SheetRow("c", "", np.ones((0, 1, 8, 8), np.float32)),
    ]
    pixels = embedded(to_svg(image_sheet(rows, ["left", "right"]), "s", ""))
    opaque = pixels[:, :, 3] > 127
    assert opaque.sum() == 3 * 64
    assert not opaque[18:].any()  # the third row


def test_large_images_are_averaged():
    image = np.zeros((1, 1, 96, 96), np.float32)
    image[..., ::2, ::2] = 1.0
    pixels = embedded(to_svg(sheet(image), "sheet", ""))
    assert pixels.shape[:2] == (51, 51)
    assert abs(int(pixels[5, 5, 0]) - 255 / 4) <= 1


def test_svg_needs_nothing_and_is_the_same_every_time():
    def draw():
        runs = {"a & b": {0: 0.2, 1: 0.3}, "c": {1: 0.25}, "none": {}}
        chart = arms_chart(runs, dict.fromkeys(runs, ACCENT))
        return to_svg(chart, "arms", 'arms "quoted"')

    svg = draw()
    assert svg == draw()
    assert svg.startswith("<svg")
    assert 'aria-label="arms &quot;quoted&quot;"' in svg
    assert "http" not in svg
    assert "var(--ink)" in svg
    assert "a &amp; b" in svg
    assert ">none<" not in svg
    defined = re.findall(r' id="([^"]*)"', svg)
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) == set(defined)


def test_ids_of_two_charts_do_not_meet():
    def ids(name):
        curve = Curve(np.arange(3.0), np.arange(3.0))
        chart = curves_chart({"a": curve}, {"a": "#123456"}, "y")
        return set(re.findall(r' id="([^"]*)"', to_svg(chart, name, "")))

    assert ids("one")
    assert not ids("one") & ids("two")


def test_png_is_a_picture_and_settings_are_left_alone():
    before = dict(mpl.rcParams)
    curves = {
        "one point": Curve(np.zeros(1), np.ones(1)),
        "with zeros": Curve(np.arange(3.0), np.array([0.0, 1.0, 0.01]), np.zeros(3), np.ones(3)),
    }
    chart = curves_chart(curves, dict.fromkeys(curves, "#123456"), "loss", log=True)
    picture = Image.open(io.BytesIO(to_png(chart)))
    assert picture.size == (round(9.6 * 120), 360)
    assert dict(mpl.rcParams) == before


def test_log_axis_without_a_positive_value():
    curve = Curve(np.arange(3.0), np.zeros(3))
    chart = curves_chart({"zero": curve}, {"zero": "#123456"}, "loss", log=True)
    assert chart.axes[0].get_yscale() == "linear"


def test_contingency_shows_shares_of_the_rows():
    table = np.array([[30, 10], [0, 0]])
    svg = to_svg(contingency_chart({"$a$": table}, ["x", "y"], {"$a$": ["b c", "$d$"]}), "c", "")
    assert {">75<", ">25<"} <= set(re.findall(r">\d+<", svg))
    assert all(f">{name}<" in svg for name in ("$a$", "b c", "$d$"))  # names, no formulas
    big = contingency_chart(
        {"f": np.ones((40, 50), int)}, [str(k) for k in range(40)], {"f": [*map(str, range(50))]}
    )
    assert len(to_svg(big, "c", "")) < 100_000


def test_codes_are_shown_with_their_shares():
    share = np.array([[0.75, 0.004], [0.1, 0.02]])
    chart = codes_chart({"one": share, "two": share / 10}, ["x", "y"], ["$a$", "b"], [1])
    svg = to_svg(chart, "c", "")
    assert re.findall(r">(\d+)<", svg) == ["75", "10", "2", "8", "1"]
    assert svg.count(">$a$<") == 2
    one, two = chart.axes
    assert [axes.collections[0].get_clim() for axes in (one, two)] == [(0, 0.75), (0, 0.25)]
    assert [line.get_ydata()[0] for line in one.lines] == [1]
    assert [tick.get_text() for tick in one.get_yticklabels()] == ["x", "y"]


def test_codes_of_many_factors_fit_the_page():
    names = [f"attribute_{k}" for k in range(80)]
    share = np.full((40, 80), 0.5)
    chart = codes_chart({"one": share, "two": share}, [f"latent {k}" for k in range(40)], names)
    assert chart.get_size_inches()[0] <= WIDTH
    assert not chart.axes[0].texts
    shown = [tick.get_text() for tick in chart.axes[0].get_xticklabels()]
    assert shown == names[::4]
    assert len(to_svg(chart, "c", "")) < 200_000


def test_dead_latents_are_muted():
    chart = kl_chart([2.0, 0.5, 0.1], [True, False, True], ["7", "0", "3"])
    bars = {round(bar.get_x() + bar.get_width() / 2): bar for bar in chart.axes[0].patches}
    assert [bars[k].get_height() for k in range(3)] == [2.0, 0.5, 0.1]
    hues = [mpl.colors.to_hex(bars[k].get_facecolor()) for k in range(3)]
    assert hues == [ACCENT, MUTED, ACCENT]
    assert [tick.get_text() for tick in chart.axes[0].get_xticklabels()] == ["7", "0", "3"]
    wide = kl_chart([1.0] * 100, [True] * 100, [str(k) for k in range(100)])
    assert not wide.axes[0].get_xticklabels()


def test_scatter_names_only_what_lies_together():
    rng = np.random.default_rng(0)
    apart = np.repeat([0, 1], 100)
    points = rng.normal(size=(200, 2)) + 20 * apart[:, None]
    mixed = rng.integers(0, 2, 200)
    mixed[0] = -1  # left out
    chart = scatter_chart(
        points,
        {"apart": (apart, ["left", "right"]), "mixed": (mixed, ["even", "odd"])},
        [["#111111", "#222222"]] * 2,
    )
    assert [text.get_text() for text in chart.axes[0].texts] == ["left", "right"]
    assert not chart.axes[1].texts
    assert len(chart.axes[1].collections[0].get_offsets()) == 199


def test_projection_finds_the_large_directions():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(500, 4)) * [0.1, 5.0, 1.0, 0.2] + 7
    points = project(codes.astype(np.float32))
    assert abs(np.corrcoef(points[:, 0], codes[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], codes[:, 2])[0, 1]) > 0.99
    line = project(codes[:, :1].astype(np.float32))
    np.testing.assert_allclose(line[:, 0], codes[:, 0] - codes[:, 0].mean(), atol=1e-5)


def test_projection_of_many_dimensions_is_that_of_few(monkeypatch):
    rng = np.random.default_rng(0)
    codes = (rng.normal(size=(60, 20)) * np.linspace(1, 5, 20)).astype(np.float32)
    few = project(codes)
    monkeypatch.setattr(charts, "_WIDE", 10)
    many = project(codes)
    for ours, theirs in zip(few.T, many.T, strict=True):
        np.testing.assert_allclose(ours * np.sign(ours @ theirs), theirs, rtol=1e-6, atol=1e-9)
    assert np.array_equal(many, project(codes))


@pytest.mark.parametrize(("n", "noise"), [(3, None), (11, 0), (40, 7)])
def test_every_class_has_a_colour_of_its_own(n, noise):
    colours = class_colours(n, noise)
    assert len(set(colours)) == n
    assert noise is None or colours[noise] == MUTED
