"""The subspaces: their scores, and what a decoder makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler
from detaux_pl.report.markup import (
    CODE_ROWS,
    html_bar,
    html_cell,
    html_chart,
    html_lead,
    html_table,
    shown_of,
)
from detaux_pl.report.section import Charts, Part, Picture, Report, Section, View
from detaux_pl.report.sheets import SheetRow, image_sheet
from detaux_pl.report.task import described
from detaux_pl.report.wording import code_name

_SHEET_COLUMNS = 10


_TRAVERSED = 12
"""Rows of a sheet of traversals, at most."""


def _draw(view: View, report: Report) -> Iterator[Picture]:
    """Draw what a disentangler that decodes makes of test images; nothing for another one."""
    # The planner prints `arms_table` and must not pay for importing torch.
    from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler

    codes, images, disentangler = view.codes, view.images, view.disentangler
    rows = codes.rows("test")
    if not isinstance(disentangler, AutoencodingDisentangler) or rows.size < 2:
        return
    titles = {codes.info.principal_subspace: "principal"}
    titles |= {
        task.get("subspace"): "chosen"
        for task in described(report)
        if task.get("codes") in (None, "disentangle/codes")  # not of a restart
    }
    if codes.values.shape[2] == 1:
        yield Picture(
            "latents", "Traversals of one latent a row", _draw_latents(view, disentangler, titles)
        )
    else:
        yield Picture(
            "traversals",
            "Traversals from one image to another, one subspace a row",
            _draw_pair(view, disentangler, titles),
        )
    given = images(rows[: _SHEET_COLUMNS + 2])
    decoded = disentangler.decode(disentangler.encode(given.to(disentangler.device))).detach()
    yield Picture(
        "reconstructions",
        "Test images and their reconstructions",
        image_sheet(
            [
                SheetRow("image", "", given.numpy()),
                SheetRow("decoded", "", decoded.cpu().numpy()),
            ]
        ),
    )


def _draw_pair(
    view: View,
    disentangler: AutoencodingDisentangler,
    titles: Mapping[int | None, str],
) -> Figure:
    from detaux_pl.disentangle.traversal import traversals

    codes = view.codes
    rows = codes.rows("test")
    # The partner that differs from the first image in most factors shows most.
    partner = rows[np.argmax((codes.factors[rows] != codes.factors[rows[0]]).sum(axis=1))]
    pair = view.images(np.array([rows[0], partner])).to(disentangler.device)
    deviations = codes.values[view.test_sample].std(axis=0, dtype=np.float64)
    most = np.argsort(-np.square(deviations).sum(axis=1), kind="stable")[:_TRAVERSED]
    shown = np.sort(most).tolist()
    painted = traversals(disentangler, pair, shown).cpu().numpy()
    return image_sheet(
        [
            SheetRow(f"subspace {k}", titles.get(k, ""), row)
            for k, row in zip(shown, painted, strict=True)
        ],
        ("image 1", "decoded", "⅓", "⅔", "1", "decoded", "image 2"),
    )


def _draw_latents(
    view: View,
    disentangler: AutoencodingDisentangler,
    titles: Mapping[int | None, str],
) -> Figure:
    import torch

    from detaux_pl.disentangle.traversal import STEPS, latent_traversals

    values = view.codes.values[view.test_sample]
    deviations = values.std(axis=0, dtype=np.float64)[:, 0]
    shown = np.argsort(-deviations, kind="stable")[:_TRAVERSED].tolist()
    image = view.images(view.codes.rows("test")[:1])[0].to(disentangler.device)
    painted = latent_traversals(disentangler, image, torch.from_numpy(values), shown).cpu().numpy()
    rows = []
    for k, row in zip(shown, painted, strict=True):
        role = f" · {titles[k]}" if k in titles else ""
        rows.append(SheetRow(code_name(k, 1), f"SD {deviations[k]:.2f}{role}", row))
    ends = [f"{step:+g}" if step else "0" for step in STEPS]
    ends = [text.replace("-", "\N{MINUS SIGN}") if "." not in text else "" for text in ends]
    return image_sheet(rows, ("image", "decoded", *ends))


def _body(report: Report, charts: Charts) -> str:
    task = report["auxiliary"]
    parts = []
    if scores := task.get("scores"):
        chosen = {each.get("subspace") for each in (task, *report["further_tasks"])}
        shown = _best_subspaces(task, chosen)
        rows = []
        for score in shown:
            index = score["subspace"]
            role = (
                "principal" if index == task.get("principal_subspace")
                else "chosen" if index in chosen
                else ""
            )  # fmt: skip
            cells = [html_cell(f"subspace {index}", role)]
            cells += [_score(key, value) for key, value in score.items() if key != "subspace"]
            rows.append(cells)
        rule = task.get("rule")
        how = f"Chosen by the rule “{rule}”. " if rule else "Given in the configuration. "
        parts += [
            html_lead(
                ("" if report["candidates"] else how)
                + f"Scores are of pairs of the same {report['principal']}: share of the pairs in "
                "which a subspace moves most, and ratio of its moves in the others to those."
                + shown_of(len(shown), len(scores), "subspaces, the best")
            ),
            html_table(
                ["", *(key.replace("_", " ") for key in scores[0] if key != "subspace")],
                rows,
                [score["subspace"] in chosen for score in shown],
            ),
        ]
    parts.append(
        html_chart(
            charts,
            "traversals",
            "From one image to another, one subspace at a time: the subspace goes from the left "
            "image's code to the right one's while the others stay. At most 12 rows, of the "
            "subspaces that vary most.",
            "Traversals",
        )
    )
    parts.append(
        html_chart(
            charts,
            "latents",
            "One latent at a time goes from 2 standard deviations (SD) below its mean over the "
            "test images to 2 above it while the others stay as in the image. At most 12 rows, of "
            "the latents that vary most.",
            "Traversals",
        )
    )
    parts.append(
        html_chart(
            charts,
            "reconstructions",
            "Test images and what the decoder makes of them.",
            "Reconstructions",
        )
    )
    return "".join(parts)


def _score(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return html_cell("yes" if value else "no")
    if not isinstance(value, float):
        return html_cell("" if value is None else str(value))
    return html_bar(value) if key == "share" else html_cell(f"{value:.3g}")


def _best_subspaces(task: Mapping[str, Any], chosen: set[Any]) -> list[Mapping[str, Any]]:
    """Return the scores of all subspaces in order, or of the best ones where there are many."""
    scores: list[Mapping[str, Any]] = task["scores"]
    if len(scores) <= CODE_ROWS:
        return scores
    key = {"min_l_dist": "loss", "abs_dot": "dot"}.get(task.get("rule", ""), "ratio")

    def place(score: Mapping[str, Any]) -> tuple[bool, bool, bool, float]:
        index, value = score["subspace"], score.get(key)
        return (
            index not in chosen,
            index != task.get("principal_subspace"),
            not score.get("candidate"),
            math.inf if value is None else value,
        )

    return sorted(scores, key=place)[:CODE_ROWS]


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("subspaces", "The subspaces", _body(report, charts))]


SECTION = Section(
    place=70,
    render=_render,
    draw=_draw,
)
