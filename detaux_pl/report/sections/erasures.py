"""Which groups were better erased: every candidate, and what was found of it."""

from __future__ import annotations

from typing import Any

from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.erased import read_erasures
from detaux_pl.report.markup import html_bar, html_cell, html_lead, html_optional, html_table
from detaux_pl.report.section import Charts, Part, Report, Section, View
from detaux_pl.report.wording import percent


def _describe(view: View) -> dict[str, Any]:
    return {"erasures": read_erasures(StageFolder(view.run_dir, "cluster"))}


def _render(report: Report, charts: Charts) -> list[Part]:
    found = report["erasures"]
    if found is None:
        return []
    verdict = found["verdict"]
    rows, marks = [], []
    for each in found["candidates"]:
        best = each["refused"] is None
        rows.append(
            [
                html_cell(each["name"], "erased" if best else each["refused"]),
                html_cell(", ".join(map(str, each["n_clusters"]))),
                html_bar(each["ami_principal"]),
                html_optional(each["stability"], lambda share: f"{share:.3f}"),
                html_cell(f"{each['gain']:+.3f}", f"± {each['error']:.3f}"),
                html_cell(percent(each["accuracy"])),
            ]
        )
        marks.append(best)
    head = [
        "erased", "groups", f"AMI with {report['principal']}", "stability",
        "gain [nats]", "accuracy",
    ]  # fmt: skip
    body = (
        html_lead(verdict["sentence"])
        + html_table(head, rows, marks)
        + html_lead(
            "Judged on labelled training images alone, each held out once from all that sees a "
            "label, without knowing a hidden factor. Gain: what erasing the groups from the "
            "features adds to the log-likelihood of such an image, with its standard error. "
            "Stability: AMI with what the clusterers find in random halves. The sentence above "
            "rests on other folds of the same images."
        )
    )
    return [
        Part("erasures", "What was erased" if verdict["found"] else "What might be erased", body)
    ]


SECTION = Section(
    place=30,
    render=_render,
    describe=_describe,
)
