"""The page of a report: one HTML file that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from detaux_pl.evaluation.markup import html_cell, html_lead, html_list, html_table, html_text
from detaux_pl.evaluation.probe_table import collate, to_html
from detaux_pl.evaluation.wording import (
    accuracy_text,
    p_text,
    percent,
    plural,
    points,
    verdict,
)

SHEET_ROWS = 24
"""Classes that the sheet of images shows at most."""
_BADGES = {"gain": "Gain", "loss": "Loss", "none": "No gain shown", "open": "Open"}
_SECTIONS = {
    "arms": "Does it help?",
    "task": "The discovered task",
    "agreement": "What the clusters mean",
    "discoveries": "Other discoveries",
    "subspaces": "The subspaces",
    "probes": "Linear probes",
    "training": "Training",
    "run": "The run",
}


def render_page(report: Mapping[str, Any], charts: Mapping[str, str], config: str) -> str:
    """Render a report as one self-contained page.

    Args:
        report: The content of `report.json`.
        charts: Inline SVG of each chart by name; what is missing is left out.
        config: The resolved configuration of the run, as text; empty for none.
    """
    told = verdict(report)
    titles, further = dict(_SECTIONS), {}
    for number, task in enumerate(report["further_tasks"], start=2):
        name, suffix = f"task{number}", task_suffix(number)
        titles[name] = f"Discovered task {number}"
        further[name] = _task(task, charts, suffix)
        further[name] += _agreement(task, report["principal"], charts, suffix)
    bodies = {
        "arms": _arms(report, charts),
        "task": _task(report["auxiliary"], charts),
        "agreement": _agreement(report["auxiliary"], report["principal"], charts),
        **further,
        "discoveries": _discoveries(report),
        "subspaces": _subspaces(report, charts),
        "probes": _probes(report),
        "training": _training(charts),
        "run": _run(report, config),
    }
    shown = {name: body for name, body in bodies.items() if body}
    room = files(__package__)
    return Template((room / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{report['run']} · detaux report"),
        style=(room / "page.css").read_text(encoding="utf-8").strip(),
        tone=told.tone,
        badge=_BADGES[told.tone],
        run=html_text(report["run"]),
        headline=html_text(told.headline),
        details=html_list(told.details),
        tiles=_tiles(report),
        links="".join(f'<a href="#{name}">{html_text(titles[name])}</a>' for name in shown),
        sections="\n".join(
            f'<section id="{name}"><h2>{html_text(titles[name])}</h2>\n{body}</section>'
            for name, body in shown.items()
        ),
        footer=html_text(
            " · ".join(f"{name} {version}" for name, version in report["versions"].items())
        ),
    )


def _tiles(report: Mapping[str, Any]) -> str:
    """The numbers to take home."""
    arms, task, baseline = report["arms"], report["auxiliary"], report["baseline"]
    tiles = []
    for name, label in ((report["main"], "accuracy with the task"), (baseline, "accuracy alone")):
        if name is not None and arms[name]["accuracy_mean"] is not None:
            tiles.append((percent(arms[name]["accuracy_mean"]), label))
    tiles.append((str(task["n_clusters"]), f"clusters, {percent(task['noise_fraction'])} noise"))
    tiles.append((f"{task['nmi_principal']:.3f}", f"NMI with {report['principal']}"))
    if (best := task["best_factor"]) is not None:
        tiles.append((f"{task['factors'][best]['nmi']:.2f}", f"NMI with {best}"))
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{html_text(t)}</dt><dd>{html_text(v)}</dd></div>" for v, t in tiles)
        + "</dl>"
    )


def _arms(report: Mapping[str, Any], charts: Mapping[str, str]) -> str:
    baseline = report["baseline"]
    kinds = {
        "main": "with the discovered task" if baseline is not None else "",
        "baseline": "baseline",
        "control": "control: labels dealt out at random",
        "ceiling": "ceiling: the true factor",
        "discovery": "another discovery",
    }
    versus = [f"vs {baseline} [points]", "p"] if baseline is not None else []
    rows, marks = [], []
    for name, arm in report["arms"].items():
        kind = "principal task alone" if name == baseline else kinds[arm["kind"]]
        cells = [
            html_cell(name, kind),
            html_cell(accuracy_text(arm)),
            _optional(arm["f1_mean"], percent),
        ]
        cells.append(_optional(arm["auxiliary_accuracy_mean"], percent))
        if baseline is not None:
            interval = arm["difference_ci95"]
            around = "" if interval is None else " to ".join(points(end) for end in interval)
            gap = arm["difference"]
            cells.append(html_cell("" if gap is None else points(gap), around))
            p, corrected = arm["p_value"], arm["p_value_holm"]
            holm = "" if corrected is None else f"Holm {p_text(corrected)}"
            cells.append(html_cell("" if p is None else p_text(p), holm))
        missing = ", ".join(map(str, arm["missing_seeds"]))
        cells.append(html_cell(str(len(arm["seeds"])), f"without {missing}" if missing else ""))
        rows.append(cells)
        marks.append(name == report["main"])
    head = ["arm", "accuracy ± 95 % CI", "macro-F1", "aux. accuracy", *versus, "seeds"]
    return html_table(head, rows, marks) + _chart(
        charts,
        "arms",
        "A dot is a seed, a diamond the mean, a bar its 95 % interval (Student t). Thin lines join "
        "the runs of one seed: differences and their t-tests are paired by seed. Holm corrects p "
        "for the number of arms.",
    )


def task_suffix(number: int) -> str:
    """Return what the names of the charts of a task end with: nothing for the first one."""
    return "" if number == 1 else str(number)


def _task(task: Mapping[str, Any], charts: Mapping[str, str], suffix: str = "") -> str:
    noise = ", ".join(
        f"{split} {percent(share)}" for split, share in task["noise_fractions"].items()
    )
    policy = {
        "own_class": "a class of their own",
        "drop": "left out of the auxiliary loss",
        "nearest": "given to the nearest cluster",
    }
    lead = f"{plural(task['n_clusters'], 'cluster')}"
    if "subspace" in task:
        lead += f" in subspace {task['subspace']}"
    if "clusterer" in task:
        settings = dict(task["clusterer"])
        kind = settings.pop("class", "")
        given = ", ".join(f"{k}={v}" for k, v in settings.items() if v is not None)
        lead += f", found by {kind}({given})"
    lead += f". Samples in no cluster: {noise}"
    if task.get("noise") in policy:
        lead += f"; they are {policy[task['noise']]}"
    shown = f"the first {SHEET_ROWS} classes" if task["n_classes"] > SHEET_ROWS else "every class"
    return html_lead(f"{lead}.") + _chart(
        charts,
        f"clusters{suffix}",
        f"The strongest members of {shown} in the train split, as the models see them.",
    )


def _discoveries(report: Mapping[str, Any]) -> str:
    rows = []
    for name, tasks in report["discoveries"].items():
        for number, task in enumerate(tasks, start=1):
            best = task["best_factor"]
            rows.append(
                [
                    html_cell(name, f"task {number}" if len(tasks) > 1 else ""),
                    html_cell(task["clusterer"]["class"], f"subspace {task['subspace']}"),
                    html_cell(str(task["n_clusters"])),
                    html_cell(percent(task["noise_fraction"])),
                    _bar(task["nmi_principal"]),
                    html_cell("")
                    if best is None
                    else html_cell(f"{task['factors'][best]['nmi']:.2f}", best),
                ]
            )
    if not rows:
        return ""
    head = ["discovery", "clusterer", "clusters", "noise"]
    head += [f"NMI with {report['principal']}", "best NMI with a hidden factor"]
    return html_lead("Other ways to auxiliary labels, on the train split.") + html_table(head, rows)


def _agreement(
    task: Mapping[str, Any], principal: str, charts: Mapping[str, str], suffix: str = ""
) -> str:
    rows, marks = [], []
    for name, values in task["factors"].items():
        rows.append(
            [
                html_cell(name, "principal" if name == principal else ""),
                *(_bar(values[key]) for key in ("nmi", "ami", "homogeneity", "completeness")),
                html_cell(f"{values['chi2']:.0f}", f"{values['dof']:.0f} degrees of freedom"),
                html_cell(p_text(values["p_value"])),
                _bar(values["cramers_v"]),
            ]
        )
        marks.append(name == task["best_factor"])
    head = [
        "factor", "NMI", "AMI", "homogeneity", "completeness", "χ²", "p", "Cramér's V",
    ]  # fmt: skip
    return (
        html_lead("Agreement of the discovered labels with the known factors, on the train split.")
        + html_table(head, rows, marks)
        + html_lead(
            "The null hypothesis of the chi-square test is independence: p near 0 says that labels "
            "and factor depend on each other, however weakly. How strongly, say NMI and Cramér's V."
        )
        + _chart(
            charts,
            f"contingency{suffix}",
            "Share of the members of each cluster with each value [%].",
        )
        + _chart(
            charts,
            f"codes{suffix}",
            "Codes of the chosen subspace on their two principal components (train split). A task "
            "of its own groups by cluster and mixes the principal classes.",
        )
    )


def _subspaces(report: Mapping[str, Any], charts: Mapping[str, str]) -> str:
    task = report["auxiliary"]
    parts = []
    if scores := task.get("scores"):
        chosen = {each.get("subspace") for each in (task, *report["further_tasks"])}
        rows = []
        for score in scores:
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
        parts += [
            html_lead(
                (f"Chosen by the rule “{rule}”. " if rule else "Given in the configuration. ")
                + f"Scores are of pairs of the same {report['principal']}: share of the pairs in "
                "which a subspace moves most, and ratio of its moves in the others to those."
            ),
            html_table(
                ["", *(key.replace("_", " ") for key in scores[0] if key != "subspace")],
                rows,
                [score["subspace"] in chosen for score in scores],
            ),
        ]
    parts.append(
        _chart(
            charts,
            "traversals",
            "From one image to another, one subspace at a time: the subspace goes from the left "
            "image's code to the right one's while the others stay.",
            "Traversals",
        )
    )
    parts.append(
        _chart(
            charts,
            "reconstructions",
            "Test images and what the decoder makes of them.",
            "Reconstructions",
        )
    )
    return "".join(parts)


def _probes(report: Mapping[str, Any]) -> str:
    probes = report["probes"]
    if probes is None:
        return ""
    n_train, n_test = probes["n_train"], probes["n_test"]
    return (
        html_lead(
            "Test accuracy [%] of linear classifiers (logistic regression) on the frozen codes. A "
            "row is what they are given: all slices together, or one of them; below them the gap "
            "between the best slice and the second best. A column is the factor that they tell. "
            "Chance is the rate of the most frequent value in the test set. "
            f"{n_train:,} train and {n_test:,} test images. What the slices cost all of them "
            "together (R3) is seen beside a run without regularisers: “detaux probes --against”."
        )
        + f'<div class="scroll">{to_html(collate({report["run"]: [probes]}), "accuracies")}</div>\n'
        + html_list([_asked(name, numbers) for name, numbers in report["requirements"].items()])
    )


def _asked(name: str, numbers: Mapping[str, Any]) -> str:
    """Say in words how far the slices of an input are from what is asked of them."""
    if numbers["assignment"] is None:
        return f"{name}: there are more factors than slices, so not each has one of its own."
    own = ", ".join(f"{task} in slice {k}" for task, k in numbers["assignment"].items())
    trend = {
        None: "",
        True: ", each better at its factor than every other slice (the diagonal trend)",
        False: ", not each better at its factor than every other slice (no diagonal trend)",
    }[numbers["diagonal"]]
    return (
        f"{name}: the factors are told best as {own}{trend}. On average over the factors, the "
        f"other slices are {points(numbers['R1'])} points from chance (R1, ideally 0), and all "
        f"slices together {points(numbers['R2'])} points from the factor's own (R2, ideally 0 or "
        "less)."
    )


def _training(charts: Mapping[str, str]) -> str:
    return _chart(charts, "losses", "Terms as they are logged.", "Disentanglement") + _chart(
        charts, "accuracy", "Mean over the seeds; the band is their range.", "Multi-task training"
    )


def _run(report: Mapping[str, Any], config: str) -> str:
    seconds = report["seconds"]
    longest = max(seconds.values(), default=0.0) or 1.0
    total = sum(seconds.values())
    rows = [
        [html_cell(name), _bar(value / longest, f"{value:,.1f} s")]
        for name, value in seconds.items()
    ]
    rows.append([html_cell("total"), html_cell(f"{total:,.1f} s")])
    table = html_table(["stage", "time"], rows)
    if not config:
        return table
    summary = "<summary>Resolved configuration</summary>"
    return f"{table}<details>{summary}<pre>{escape(config)}</pre></details>"


def _bar(share: float, text: str | None = None) -> str:
    """A cell with a bar behind its number."""
    inside = min(max(share, 0.0), 1.0)
    rounded = round(share, 3) + 0.0  # no negative zero
    shown = f"{rounded:.3f}".replace("-", "\N{MINUS SIGN}") if text is None else text
    return f'<td class="bar" style="--share:{inside:.3f}">{html_text(shown)}</td>'


def _optional(value: float | None, write: Any) -> str:
    return html_cell("" if value is None else write(value))


def _score(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return html_cell("yes" if value else "no")
    if not isinstance(value, float):
        return html_cell("" if value is None else str(value))
    return _bar(value) if key == "share" else html_cell(f"{value:.3g}")


def _chart(charts: Mapping[str, str], name: str, caption: str, title: str = "") -> str:
    if name not in charts:
        return ""
    heading = f"<h3>{html_text(title)}</h3>" if title else ""
    return (
        f"{heading}<figure>{charts[name]}<figcaption>{html_text(caption)}</figcaption></figure>\n"
    )
