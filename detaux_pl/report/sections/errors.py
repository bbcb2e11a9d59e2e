"""Where it errs: class against class, and class by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from detaux_pl.evaluation.errors import confusion_counts, describe_errors, worst_first
from detaux_pl.evaluation.together import Together
from detaux_pl.report.error_charts import confusion_chart
from detaux_pl.report.markup import (
    html_bar,
    html_cell,
    html_chart,
    html_choice,
    html_lead,
    html_table,
    shown_of,
)
from detaux_pl.report.section import Charts, Part, Picture, Report, Section, View
from detaux_pl.report.wording import percent, plural, range_text, short_name

_CLASSES = 100
"""Classes that the matrix and the table show at most."""
_PAIRS = 20
"""Pairs of classes that are listed."""
_NAME = 40
"""Letters of a class name."""
ORDERS = {
    "confusion": "classes in their order",
    "confusion_by_recall": "lowest recall first",
    "confusion_by_likeness": "classes taken for each other side by side",
}
"""The charts of the confusion matrix, and what they are called."""


def _describe(view: View) -> dict[str, Any]:
    main = view.arms[0]
    own = view.together.get(main)
    if own is None:
        return {"errors": None}
    baseline = view.baseline if view.baseline in view.together else None
    other = None if baseline is None else view.together[baseline]
    return {"errors": {"arm": main, "baseline": baseline, **describe_errors(own, other)}}


def _draw(view: View, report: Report) -> Iterator[Picture]:
    if report["errors"] is None:
        return
    own = view.together[report["errors"]["arm"]]
    shown = _most_mistaken(own)
    counts = confusion_counts(own, shown)
    totals = np.bincount(own.targets, minlength=len(own.classes))[shown]
    orders = {"confusion": np.arange(len(shown))}
    if len(shown) > 2:
        recall = np.diag(counts) / np.maximum(totals, 1)
        orders["confusion_by_recall"] = np.lexsort((recall, totals == 0))
        orders["confusion_by_likeness"] = _by_likeness(counts / np.maximum(totals[:, None], 1))
    for name, order in orders.items():
        yield Picture(
            name,
            f"Confusion matrix, {ORDERS[name]}",
            confusion_chart(
                counts[np.ix_(order, order)],
                totals[order],
                [own.classes[shown[place]] for place in order],
            ),
        )


def _most_mistaken(own: Together) -> NDArray[np.intp]:
    """Return the classes to show, in their order: where there are many, those most mistaken."""
    n, wrong = len(own.classes), ~own.right
    missed = np.bincount(own.targets[wrong], minlength=n)
    named = np.bincount(own.predicted[wrong], minlength=n)
    return np.sort(np.argsort(-(missed + named), kind="stable")[:_CLASSES])


def _by_likeness(share: NDArray[np.float64]) -> NDArray[np.intp]:
    """Order classes so that those taken for each other are neighbours (average linkage)."""
    mutual = share + share.T
    distance = 1.0 - mutual / 2
    np.fill_diagonal(distance, 0.0)
    links = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    order: NDArray[np.intp] = leaves_list(links).astype(np.intp)
    return order


def _body(report: Report, charts: Charts) -> str:
    errors = report["errors"]
    if errors is None:
        return ""
    arm = report["arms"][errors["arm"]]["ensemble"]
    who = errors["arm"]
    who += f", {len(errors['seeds'])} seeds together" if len(errors["seeds"]) > 1 else ", one seed"
    n = len(errors["per_class"])
    lead = html_lead(
        f"{who}: {percent(arm['accuracy'])} of {errors['images']:,} test images are told right "
        f"(95 % CI {range_text(*arm['ci95'])}, by bootstrap over the images), "
        f"{errors['n_mistakes']:,} wrong."
    )
    caption = (
        "Share of the images of each true class (row) by predicted class (column) [%]; "
        "shades are by its square root."
        + shown_of(
            min(n, _CLASSES), n, "classes, those in most mistakes; rows need not add up to 100 %"
        )
    )
    matrix = html_choice(
        "order", {label: html_chart(charts, name, caption) for name, label in ORDERS.items()}
    )
    return lead + matrix + _pairs(errors) + _classes(errors)


def _pairs(errors: Mapping[str, Any]) -> str:
    pairs = errors["confusion"][:_PAIRS]
    if not pairs:
        return ""
    rows = [
        [
            html_cell(short_name(pair["true"], _NAME)),
            html_cell(short_name(pair["predicted"], _NAME)),
            html_cell(str(pair["n"])),
            html_bar(pair["share"], percent(pair["share"])),
        ]
        for pair in pairs
    ]
    said = shown_of(len(pairs), errors["n_confusions"], "pairs of classes, the most frequent")
    return (
        "<h3>Taken for another most often</h3>\n"
        + html_table(["true class", "predicted as", "images", "of the true class"], rows)
        + (html_lead(said.strip()) if said else "")
    )


def _classes(errors: Mapping[str, Any]) -> str:
    classes, baseline = errors["per_class"], errors["baseline"]
    ranked = worst_first(classes)[:_CLASSES]
    rows = []
    for row in ranked:
        times, taken = row["taken_for_images"], row["taken_for"]
        said = "" if taken is None else f"taken for {short_name(taken, _NAME)} ({times:,})"
        cells = [
            html_cell(short_name(row["class"], _NAME), said), html_cell(f"{row['images']:,}"),
            _share(row, "recall"),
        ]  # fmt: skip
        for name in ("recall", "precision", "f1"):
            if name != "recall":
                cells.append(_share(row, name))
            if baseline is not None:
                cells.append(_share(row, f"baseline_{name}"))
        rows.append(cells)
    versus = [f"{baseline}: "] if baseline is not None else []
    names = [f"{who}{name}" for name in ("recall", "precision", "F1") for who in ("", *versus)]
    table = html_table(["class", "images", *names], rows)
    which = "classes, those of the lowest recall; `detaux errors` lists all"
    with_others = ""
    if baseline is not None:
        with_others = f" Beside it {baseline}, {plural(len(errors['baseline_seeds']), 'seed')}"
        with_others += " together." if len(errors["baseline_seeds"]) > 1 else "."
    return (
        "<h3>Class by class</h3>\n"
        + html_lead(
            "Recall: share of the images of a class that are told so; precision: share of those "
            "told so that are; F1: their harmonic mean [%]. In small print the 95 % interval "
            f"(Wilson), and what a class is taken for most often.{with_others}"
            + shown_of(len(rows), len(classes), which)
        )
        + f'<div class="tall">{table}</div>\n'
    )


def _share(row: Mapping[str, Any], name: str) -> str:
    value, low = row[name], row.get(f"{name}_low")
    if value is None:
        return html_cell("")
    around = "" if low is None else f"{100 * low:.0f} to {100 * row[f'{name}_high']:.0f}"
    return html_cell(f"{100 * value:.1f}", around)


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("errors", "Where it errs", _body(report, charts))]


SECTION = Section(
    place=12,
    render=_render,
    describe=_describe,
    draw=_draw,
)
