"""The page of a report: one HTML file that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from detaux_pl.evaluation.markup import html_cell, html_lead, html_list, html_table, html_text
from detaux_pl.evaluation.wording import (
    Verdict,
    accuracy_text,
    collapse_text,
    p_text,
    percent,
    plural,
    points,
    score_text,
    verdict,
)

SHEET_ROWS = 24
"""Classes that the sheet of images shows at most."""
CODE_ROWS = 40
"""Codes or subspaces that a table or a chart shows at most."""
KL_BARS = 100
"""Latents that the chart of their KL divergence shows at most."""
_BADGES = {"gain": "Gain", "loss": "Loss", "none": "No gain shown", "open": "Open"}
_SECTIONS = {
    "arms": "Does it help?",
    "task": "The discovered task",
    "candidates": "How it was chosen",
    "agreement": "What the clusters mean",
    "discoveries": "Other discoveries",
    "subspaces": "The subspaces",
    "disentanglement": "Disentanglement",
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
        "candidates": _candidates(report),
        "agreement": _agreement(report["auxiliary"], report["principal"], charts),
        **further,
        "discoveries": _discoveries(report),
        "subspaces": _subspaces(report, charts),
        "disentanglement": _disentanglement(report, charts),
        "probes": _probes(report),
        "training": _training(charts),
        "run": _run(report, config),
    }
    return _fill(report, told, _tiles(report), titles, bodies)


def render_page_without_task(report: Mapping[str, Any], config: str) -> str:
    """Render the report of a run that found no task worth training on.

    Args:
        report: The content of `report.json`.
        config: The resolved configuration of the run, as text.
    """
    titles = {"candidates": "What was tried", "run": _SECTIONS["run"]}
    bodies = {"candidates": _candidates(report), "run": _run(report, config)}
    found = report["candidates"]["verdict"]
    told = Verdict("none", f"{found['headline']}.", tuple(found["details"]))
    return _fill(report, told, "", titles, bodies)


def _fill(
    report: Mapping[str, Any],
    told: Verdict,
    tiles: str,
    titles: Mapping[str, str],
    bodies: Mapping[str, str],
) -> str:
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
        tiles=tiles,
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
    if task.get("noise") in policy and "refinement" not in task:
        lead += f"; they are {policy[task['noise']]}"
    if refinement := task.get("refinement"):
        rounds = refinement["rounds"]
        moved = ", then ".join(percent(each["moved"]) for each in rounds)
        lead += (
            f". Refined by nets that never saw the image's own label, in "
            f"{plural(len(rounds), 'round')}: {moved} of the labels changed"
        )
        if rounds[0]["labelled"]:
            lead += f", {percent(rounds[0]['labelled'])} of the images got their first"
        vanished = task["refinement"]["n_classes_before"] - task["n_clusters"]
        if vanished:
            lead += f", {plural(vanished, 'cluster')} vanished"
    shown = f"the first {SHEET_ROWS} classes" if task["n_classes"] > SHEET_ROWS else "every class"
    return html_lead(f"{lead}.") + _chart(
        charts,
        f"clusters{suffix}",
        f"The strongest members of {shown} in the train split, as the models see them.",
    )


def _candidates(report: Mapping[str, Any]) -> str:
    found = report["candidates"]
    if found is None:
        return ""
    alone = all(each["restarts"] is None for each in found["candidates"])
    rows, marks = [], []
    for each in found["candidates"]:
        best = each["name"] in found["verdict"]["chosen"]
        rows.append(
            [
                html_cell(each["name"], _outcome(each, best, found["verdict"]["found"])),
                html_cell(str(each["n_classes"]), f"balance {each['balance']:.2f}"),
                _bar(each["ami_principal"]),
                _bar(each["stability"]),
                *([] if alone else [_optional_bar(each["restarts"])]),
                _optional_bar(each["learnability"]),
                _optional(each["gain"], points),
            ]
        )
        marks.append(best)
    head = [
        "candidate", "classes", f"AMI with {report['principal']}", "stability",
        *([] if alone else ["in other restarts"]), "learnability", "gain [points]",
    ]  # fmt: skip
    told = html_lead(found["verdict"]["sentence"]) if found["verdict"]["found"] else ""
    return (
        told
        + html_table(head, rows, marks)
        + html_lead(
            "Judged on training images alone, without knowing a hidden factor. Stability: AMI "
            "with what the clusterer finds in random halves. Learnability: what nets tell of the "
            "labels of images they never saw, from 0 (chance) to 1. Gain: what learning it too "
            "adds to their accuracy of the principal task on such images. The sentence above "
            "rests on other folds of the same images."
        )
    )


def _outcome(candidate: Mapping[str, Any], best: bool, found: bool) -> str:
    if best:
        return "chosen" if found else "the best one"
    refused: str | None = candidate["refused"]
    return refused or ("not tried" if candidate["gain"] is None else "tried")


def _optional_bar(value: float | None) -> str:
    return html_cell("") if value is None else _bar(value)


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
                + _cut(len(shown), len(scores), "subspaces, the best")
            ),
            html_table(
                ["", *(key.replace("_", " ") for key in scores[0] if key != "subspace")],
                rows,
                [score["subspace"] in chosen for score in shown],
            ),
        ]
    parts.append(
        _chart(
            charts,
            "traversals",
            "From one image to another, one subspace at a time: the subspace goes from the left "
            "image's code to the right one's while the others stay. At most 12 rows, of the "
            "subspaces that vary most.",
            "Traversals",
        )
    )
    parts.append(
        _chart(
            charts,
            "latents",
            "One latent at a time goes from 2 standard deviations (SD) below its mean over the "
            "test images to 2 above it while the others stay as in the image. At most 12 rows, of "
            "the latents that vary most.",
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


def _cut(shown: int, total: int, which: str) -> str:
    """Say how many of which are shown; nothing where all are."""
    return "" if shown == total else f" Shown are {shown} of {total:,} {which}."


def _disentanglement(report: Mapping[str, Any], charts: Mapping[str, str]) -> str:
    metrics, posterior = report["metrics"], report["posterior"]
    parts = []
    if warning := collapse_text(report):
        parts.append(f'<p class="warning">{html_text(warning)}</p>\n')
    if metrics is not None:
        parts.append(_scores(metrics, charts))
    if posterior is not None:
        parts.append(
            _chart(
                charts,
                "kl",
                "KL divergence of the posterior of each latent from the prior N(0, 1), mean over "
                f"test images: 0 says nothing of the image. {posterior['active_units']} of "
                f"{plural(posterior['n_latents'], 'latent')} active: the mean of the posterior has "
                "a variance above 0.01 over them (Burda et al. 2016)."
                + _cut(
                    min(KL_BARS, posterior["n_latents"]),
                    posterior["n_latents"],
                    "latents, the largest",
                ),
                "What each latent says",
            )
        )
    return "".join(parts)


def _scores(metrics: Mapping[str, Any], charts: Mapping[str, str]) -> str:
    n_subspaces, dims = metrics["shape"]
    by_dim, by_subspace = metrics["scores"]["dim"], metrics["scores"]["subspace"]
    head = ["score", "better", "per dimension", *(["per subspace"] if dims > 1 else [])]
    rows = []
    for key in dict.fromkeys([*by_dim, *by_subspace]):
        told = score_text(key)
        row = [html_cell(told.name, told.meaning), html_cell(told.better)]
        for values in (by_dim, by_subspace)[: 1 + (dims > 1)]:
            value = values.get(key)
            bar = value is not None and told.share
            row.append(_bar(value) if bar else _optional(value, lambda number: f"{number:.3g}"))
        rows.append(row)
    kind = (
        plural(n_subspaces, "latent") if dims == 1
        else f"{plural(n_subspaces, 'subspace')} of {dims} dimensions"
    )  # fmt: skip
    left_out = [f"{score_text(key).name}: {why}" for key, why in metrics["left_out"].items()]
    n_codes = n_subspaces * dims
    return (
        html_lead(
            f"How far single codes stand for single factors: {kind} against "
            f"{', '.join(metrics['factors'])}, on {metrics['n_samples']:,} held-out images "
            f"({metrics['split']} split)."
        )
        + (html_table(head, rows) if rows else "")
        + (html_lead("Left out:") + html_list(left_out) if left_out else "")
        + _chart(
            charts,
            "metrics",
            "What each code by itself tells of each factor, as a share of the factor's entropy; "
            "and how much of what boosted trees tell of it rests on the code. Grouped by the "
            "factor that a code counts most for. The darkest colour of a panel is its largest "
            "number, or 25 where all are smaller."
            + _cut(min(CODE_ROWS, n_codes), n_codes, "codes, those that count most"),
            "Codes and factors",
        )
    )


def _probes(report: Mapping[str, Any]) -> str:
    probes = report["probes"]
    if probes is None:
        return ""
    n_train, n_test = probes["n_train"], probes["n_test"]
    most = max(len(entry["slices"]) for entry in probes["inputs"].values())
    return (
        html_lead(
            "Test accuracy [%] of linear classifiers (logistic regression) on the frozen codes. A "
            "row is what they are given: all slices together, or one of them; below them the gap "
            "between the best slice and the second best. A column is the factor that they tell. "
            "Chance is the rate of the most frequent value in the test set. "
            f"{n_train:,} train and {n_test:,} test images. What the slices cost all of them "
            "together (R3) is seen beside a run without regularisers: “detaux probes --against”."
            + _cut(min(CODE_ROWS, most), most, "slices, the best at some factor")
        )
        + _probe_table(probes, report["requirements"])
        + html_list([_asked(name, numbers) for name, numbers in report["requirements"].items()])
    )


def _probe_table(probes: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    tasks = probes["tasks"]

    def cells(label: str, detail: str, accuracies: Mapping[str, float | None]) -> list[str]:
        values = [accuracies[task] for task in tasks]
        return [
            html_cell(label, detail),
            *(_optional(value, lambda share: f"{100 * share:.1f}") for value in values),
        ]

    rows = []
    for name, entry in probes["inputs"].items():
        rows.append(cells(name, "all slices together", entry["full"]))
        rows += [
            cells(f"{name} · slice {k}", "", entry["slices"][k]) for k in _best_slices(entry, tasks)
        ]
        gaps = asked[name]["gaps"]
        if all(gap is not None for gap in gaps.values()):
            rows.append(cells(f"{name} · gap", "best slice less the second best", gaps))
    rows.append(cells("chance", "", probes["chance"]))
    return html_table(["input", *tasks], rows)


def _best_slices(entry: Mapping[str, Any], tasks: Sequence[str]) -> list[int]:
    """Return the slices in order; where there are many, those that place best at some factor."""
    slices = entry["slices"]
    if len(slices) <= CODE_ROWS:
        return list(range(len(slices)))
    places = [len(slices)] * len(slices)
    for task in tasks:
        ranked = sorted(range(len(slices)), key=lambda k: -slices[k][task])
        for place, k in enumerate(ranked):
            places[k] = min(places[k], place)
    return sorted(range(len(slices)), key=lambda k: places[k])[:CODE_ROWS]


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
