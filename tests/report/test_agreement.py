from __future__ import annotations

from pathlib import Path

import numpy as np

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.cluster.discover import Discovery
from detaux_pl.cluster.kmeans import KMeans
from detaux_pl.report.section import View
from detaux_pl.report.sections import task
from detaux_pl.report.sections.agreement import SECTION


def test_a_task_is_drawn_in_the_codes_that_it_was_found_in():
    """A second task whose first one was erased lies apart from where the first one left it."""
    rng = np.random.default_rng(0)
    label, hue, size = (rng.integers(0, m, 900) for m in (3, 3, 2))
    values = rng.normal(scale=0.05, size=(900, 2, 4))
    values[:, 0] += rng.normal(size=(3, 4))[label]
    values[:, 1, :2] += 4 * np.array([[0, 0], [1, 0], [0.3, 1]])[hue]
    values[:, 1, 2] += 1.5 * size
    codes = Codes(
        values.astype(np.float32),
        np.arange(900),
        np.zeros(900, np.int8),
        np.stack([label, hue, size], axis=1).astype(np.int64),
        FactorInfo(("label", "hue", "size"), (3, 3, 2), "label", 0),
    )
    tasks = Discovery(KMeans(3), n_tasks=2, subspace=1, further="erase")(codes)
    view = View(Path(), [], None, [0], codes, tasks, lambda rows: None, None, [])
    drawn = {
        picture.name: np.concatenate(
            [dots.get_offsets() for dots in picture.figure.axes[0].collections]
        )
        for picture in SECTION.draw(view, task.SECTION.describe(view))
        if picture.name.startswith("codes")
    }
    # Two of the hues are 4.9 apart, the sizes 1.5.
    assert [np.ptp(drawn[name], axis=0).max().round() for name in ("codes", "codes2")] == [5, 2]


def test_values_are_shown_by_their_names():
    rng = np.random.default_rng(0)
    label, hue = rng.integers(0, 2, 200), rng.integers(0, 3, 200)
    values = rng.normal(scale=0.05, size=(200, 2, 2))
    values[:, 1] += np.array([[0, 0], [1, 0], [0, 1]])[hue]
    names = ("dark blue", "bottle green at night", "red/pink")
    codes = Codes(
        values.astype(np.float32), np.arange(200), np.zeros(200, np.int8),
        np.stack([label, hue], axis=1).astype(np.int64),
        FactorInfo(("kind", "hue"), (2, 3), "kind", 0, {"hue": names}),
    )  # fmt: skip
    tasks = Discovery(KMeans(3), subspace=1)(codes)
    view = View(Path(), [], None, [0], codes, tasks, lambda rows: None, None, [])
    report = task.SECTION.describe(view)
    clusters = report["auxiliary"]["clusters"]
    assert {cluster["leading"]["name"] for cluster in clusters} == {*names}
    shown = {
        picture.name: [
            text.get_text()
            for axes in picture.figure.axes
            for text in (*axes.get_xticklabels(), *axes.texts)
        ]
        for picture in SECTION.draw(view, report)
    }
    short = ["dark blue", "bottle…night", "red/pink"]
    for name in ("contingency", "codes"):
        assert {*short} <= {*shown[name]}
    assert shown["contingency"][:2] == ["0", "1"]  # of a factor without names
