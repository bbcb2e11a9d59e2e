"""The report of a run: what it shows, in numbers, pictures and one page."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import entropy

from detaux_pl.artifacts.codes import SPLITS, Codes
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_json, replacing, write_json, write_text
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels, labels_folder, load_tasks
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.evaluation import figures
from detaux_pl.evaluation.figures import ACCENT, MUTED, PALETTE, Curve, SheetRow, class_colours
from detaux_pl.evaluation.page import (
    CODE_ROWS,
    KL_BARS,
    SHEET_ROWS,
    render_page,
    render_page_without_task,
    task_suffix,
)
from detaux_pl.evaluation.requirements import requirements
from detaux_pl.evaluation.significance import holm, paired_test, summarise
from detaux_pl.evaluation.wording import (
    SHUFFLED,
    accuracy_text,
    code_name,
    p_text,
    percent,
    plural,
    points,
    verdict,
)
from detaux_pl.metrics.agreement import agreement, contingency

if TYPE_CHECKING:
    from torch import Tensor

    from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler
    from detaux_pl.disentangle.base import Disentangler

Images = Callable[[NDArray[np.int64]], "Tensor"]
"""Gives the float images of some rows, shape (n, C, H, W) in [0, 1]."""

_SHEET_COLUMNS = 10
_SCATTER_POINTS = 1000
_TRAVERSED = 12
"""Rows of a sheet of traversals, at most."""
_ENCODED = 1000
"""Test images that say how much codes vary, at most."""
_BATCH = 250
"""How many of them are encoded at once."""


def write_report(
    run_dir: Path,
    arms: Sequence[str],
    baseline: str | None,
    seeds: Sequence[int],
    images: Images,
    disentangler: Disentangler | None = None,
    discoveries: Sequence[str] = (),
) -> dict[str, Any]:
    """Write `report/report.html`, `report/report.json` and `report/figures/*.png`.

    What a run lacks is left out, or listed where it was asked for: arms without a finished
    seed, factors beyond the principal one, linear probes, scores of disentanglement, curves, a
    disentangler that decodes, the posterior of a VAE.

    Args:
        run_dir: Folder of the run.
        arms: Names of the arms in the order to show them, the main one first.
        baseline: The arm that the others are tested against, the principal task alone; None,
            or the main arm itself, where the run has none.
        seeds: Seeds that every arm was asked to run.
        images: Gives the float images of some rows of the data set, shape (n, C, H, W) in
            [0, 1], as the models saw them.
        disentangler: The trained disentangler, for reconstructions and traversals; None for
            none.
        discoveries: Names of the further discoveries; the arms that learn their labels have the
            same names.

    Returns:
        The content of `report.json`.

    Raises:
        ValueError: If there is no arm, or the baseline is not among the arms.
        ArtifactError: If codes or labels are missing, or belong to different samples.
    """
    if not arms or (baseline is not None and baseline not in arms):
        raise ValueError(
            f"the arms are {', '.join(arms) or 'none'}, the baseline is {baseline!r}: give the "
            "main arm first, and a baseline among them or None."
        )
    baseline = None if baseline == arms[0] else baseline
    codes = Codes.load(run_dir / "disentangle" / "codes")
    tasks = _read_tasks(run_dir, codes, arms[0])
    metrics = _read_metrics(run_dir)
    report: dict[str, Any] = {
        "run": run_dir.resolve().name,
        "verdict": "",
        "principal": codes.info.principal,
        "main": arms[0],
        "baseline": baseline,
        "auxiliary": _describe_task(codes, tasks[0]),
        "further_tasks": [_describe_task(codes, labels) for labels in tasks[1:]],
        "discoveries": {
            name: [
                _describe_task(codes, labels) for labels in _read_tasks(run_dir, codes, name, name)
            ]
            for name in discoveries
        },
        "candidates": _read_candidates(run_dir),
        **_read_probes(run_dir),
        "metrics": metrics and {k: v for k, v in metrics.items() if k != "matrices"},
        "posterior": _describe_posterior(codes, images, disentangler),
        "arms": _compare_arms(
            run_dir, arms, baseline, seeds, _kinds(arms, discoveries, codes.info.names)
        ),
        "seconds": _seconds(run_dir),
        "versions": (StageFolder(run_dir, "disentangle").manifest or {}).get("versions", {}),
    }
    report["verdict"] = verdict(report).headline
    folder = run_dir / "report"
    charts = {}
    pictures = _draw(run_dir, report, codes, tasks, images, disentangler)
    if metrics is not None:
        pictures = chain(pictures, _draw_matrices(metrics, codes))
    for name, alt, figure in pictures:
        with replacing(folder / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(figures.to_png(figure))
        charts[name] = figures.to_svg(figure, name, alt)
    write_text(folder / "report.html", render_page(report, charts, _read_config(run_dir)))
    write_json(folder / "report.json", report)
    return report


def write_report_without_task(run_dir: Path) -> dict[str, Any]:
    """Write the report of a run that found no task worth training on: why, and what it tried.

    Args:
        run_dir: Folder of the run; its stage `cluster` is finished.

    Returns:
        The content of `report.json`.

    Raises:
        ArtifactError: If the stage tried no candidates.
    """
    candidates = _read_candidates(run_dir)
    if candidates is None:
        raise ArtifactError(f"{run_dir / 'cluster'} says of no candidates that they were tried.")
    report = {
        "run": run_dir.resolve().name,
        "verdict": candidates["verdict"]["sentence"],
        "principal": Codes.load(run_dir / "disentangle" / "codes").info.principal,
        "candidates": candidates,
        "arms": {},
        "seconds": _seconds(run_dir),
        "versions": (StageFolder(run_dir, "disentangle").manifest or {}).get("versions", {}),
    }
    page = render_page_without_task(report, _read_config(run_dir))
    write_text(run_dir / "report" / "report.html", page)
    write_json(run_dir / "report" / "report.json", report)
    return report


def arms_table(report: Mapping[str, Any]) -> Table:
    """Lay out the arms of a report for the terminal.

    Args:
        report: The content of `report.json`.
    """
    baseline = report["baseline"]
    table = Table(title=f"{report['principal']} · test accuracy", title_justify="left")
    table.add_column("arm")
    table.add_column("mean ± 95 % CI", justify="right")
    if baseline is not None:
        table.add_column(f"vs {baseline}", justify="right")
        table.add_column("p", justify="right")
    table.add_column("seeds", justify="right")
    for name, arm in report["arms"].items():
        cells = [name, accuracy_text(arm)]
        if baseline is not None:
            gap, p = arm["difference"], arm["p_value"]
            cells += ["" if gap is None else points(gap), "" if p is None else p_text(p)]
        finished = len(arm["seeds"])
        cells.append(f"{finished} of {finished + len(arm['missing_seeds'])}")
        table.add_row(*cells, style="bold" if name == report["main"] else None)
    return table


def _read_config(run_dir: Path) -> str:
    """Settings of the chain; nothing where its stages were run one by one."""
    config = run_dir / "config.yaml"
    return config.read_text(encoding="utf-8") if config.is_file() else ""


def _read_tasks(
    run_dir: Path, codes: Codes, arm: str, discovery: str | None = None
) -> list[AuxiliaryLabels]:
    """Read the labels of a discovery: those that its arm learned, if it learned any."""
    trained = [
        StageFolder(run_dir, path.relative_to(run_dir).as_posix()).manifest
        for path in sorted((run_dir / "multitask" / arm).glob("seed*"))
    ]
    learned = [name for manifest in trained if manifest for name in manifest["upstream"]]
    root = run_dir if discovery is None else run_dir / "discoveries" / discovery
    folder = run_dir / learned[0] if learned else labels_folder(root)
    tasks = load_tasks(folder)
    if not np.array_equal(codes.ids, tasks[0].ids):
        raise ArtifactError(
            f"{folder} labels other samples than there are codes of: cluster again."
        )
    return tasks


def _describe_task(codes: Codes, labels: AuxiliaryLabels) -> dict[str, Any]:
    """What the discovered task is, and what it has in common with the known factors (train)."""
    train = codes.rows("train")
    given = train[labels.labels[train] != IGNORED]
    found = labels.labels[given]
    principal = codes.info.principal
    factors = {name: agreement(codes.factor(name)[given], found) for name in codes.info.names}
    hidden = [name for name in codes.info.names if name != principal]
    best = max(hidden, key=lambda name: factors[name]["nmi"], default=None)
    noise_class = labels.meta.get("noise_class")
    clusters = []
    for label in range(labels.n_classes):
        members = given[found == label]
        cluster = {
            "label": label,
            "name": "noise" if label == noise_class else f"cluster {label}",
            "size": len(members),
            "share": len(members) / len(train),
        }
        if best is not None and len(members):
            counts = np.bincount(codes.factor(best)[members])
            cluster["leading"] = {
                "factor": best,
                "value": int(counts.argmax()),
                "share": float(counts.max() / len(members)),
            }
        clusters.append(cluster)
    return {
        **labels.meta,
        "n_clusters": labels.n_classes - (noise_class is not None),
        "n_classes": labels.n_classes,
        "noise_fraction": float(labels.is_noise[train].mean()),
        "noise_fractions": {
            split: float(labels.is_noise[codes.rows(split)].mean())
            for split in SPLITS
            if codes.rows(split).size
        },
        "nmi_principal": factors[principal]["nmi"],
        "best_factor": best,
        "factors": factors,
        "clusters": clusters,
    }


def _read_probes(run_dir: Path) -> dict[str, Any]:
    """Accuracy of the linear probes, and how far the slices are from what is asked of them."""
    stage = StageFolder(run_dir, "evaluate")
    if not stage.complete:
        return {"probes": None, "requirements": None}
    probes = read_json(stage.path / "probes.json")
    asked = {
        name: requirements(entry, probes["chance"]) for name, entry in probes["inputs"].items()
    }
    return {"probes": probes, "requirements": asked}


def _read_candidates(run_dir: Path) -> dict[str, Any] | None:
    """What is known of every candidate task; None where none was tried."""
    path = run_dir / "cluster" / "candidates.json"
    return read_json(path) if path.is_file() else None


def _read_metrics(run_dir: Path) -> dict[str, Any] | None:
    """Scores of disentanglement; None where none was asked for."""
    stage = StageFolder(run_dir, "evaluate")
    path = stage.path / "metrics.json"
    if not stage.complete or not path.is_file():
        return None
    metrics: dict[str, Any] = read_json(path)
    return metrics if metrics["scores"]["dim"] or metrics["left_out"] else None


def _sample_test(codes: Codes) -> NDArray[np.int64]:
    """Draw rows of the test split, as many as say how much codes vary."""
    rows = codes.rows("test")
    return np.sort(np.random.default_rng(0).permutation(rows)[:_ENCODED])


def _describe_posterior(
    codes: Codes, images: Images, disentangler: Disentangler | None
) -> dict[str, Any] | None:
    """What each latent of a VAE says of test images; None for another disentangler."""
    rows = _sample_test(codes)
    if disentangler is None or not rows.size:
        return None
    # The planner prints `arms_table` and must not pay for importing torch.
    import torch

    from detaux_pl.disentangle.vae import ACTIVE, VAE
    from detaux_pl.losses.gaussian_kl import gaussian_kl

    if not isinstance(disentangler, VAE):
        return None
    means, divergences = [], []
    with torch.no_grad():
        for part in np.array_split(rows, -(-len(rows) // _BATCH)):
            posterior = disentangler.posterior(images(part).to(disentangler.device))
            means.append(posterior.mean.double().cpu())
            divergences.append(gaussian_kl(posterior.mean, posterior.log_variance).double().cpu())
    active = torch.cat(means).var(dim=0, correction=0) > ACTIVE
    return {
        "kl": torch.cat(divergences).mean(dim=0).tolist(),
        "active": active.nonzero().flatten().tolist(),
        "active_units": int(active.sum()),
        "n_latents": len(active),
    }


def _kinds(
    arms: Sequence[str], discoveries: Sequence[str], factors: Sequence[str]
) -> dict[str, str]:
    """What each arm is there for."""

    def kind(arm: str) -> str:
        if arm == arms[0]:
            return "main"
        if arm == SHUFFLED:
            return "control"
        if arm in discoveries:
            return "discovery"
        return "ceiling" if set(arm.split("-")) <= set(factors) else "baseline"

    return {arm: kind(arm) for arm in arms}


def _compare_arms(
    run_dir: Path,
    arms: Sequence[str],
    baseline: str | None,
    seeds: Sequence[int],
    kinds: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Accuracy of every arm, with its paired test against the baseline."""
    tests = {name: _test_metrics(run_dir, name, seeds) for name in arms}
    result = {}
    for name, runs in tests.items():
        accuracies = [run["test/accuracy/principal"] for run in runs.values()]
        scores = [run["test/f1/principal"] for run in runs.values() if "test/f1/principal" in run]
        auxiliary = [
            value
            for run in runs.values()
            for key, value in run.items()
            if key.startswith("test/accuracy/auxiliary")
        ]
        summary = summarise(accuracies) if accuracies else None
        result[name] = {
            "kind": kinds[name],
            "seeds": list(runs),
            "missing_seeds": [seed for seed in seeds if seed not in runs],
            "accuracies": accuracies,
            "accuracy_mean": summary.mean if summary else None,
            "accuracy_std": summary.std if summary else None,
            "ci95": [summary.low, summary.high] if summary and summary.n > 1 else None,
            "f1_mean": float(np.mean(scores)) if scores else None,
            "auxiliary_accuracy_mean": float(np.mean(auxiliary)) if auxiliary else None,
            "seconds": _seconds(run_dir / "multitask" / name).get("multitask", 0.0),
            **_against(runs, {} if baseline in (None, name) else tests[baseline]),
        }
    tested = [name for name, arm in result.items() if arm["p_value"] is not None]
    corrected = dict(zip(tested, holm([result[name]["p_value"] for name in tested]), strict=True))
    for name, arm in result.items():
        arm["p_value_holm"] = corrected.get(name)
    control = _against(tests[arms[0]], tests.get(SHUFFLED, {}))
    result[arms[0]]["p_value_shuffled"] = control["p_value"]
    return result


def _test_metrics(run_dir: Path, arm: str, seeds: Sequence[int]) -> dict[int, dict[str, float]]:
    """Test metrics of the seeds of an arm that finished."""
    stages = {seed: StageFolder(run_dir, f"multitask/{arm}/seed{seed}") for seed in seeds}
    return {
        seed: read_json(stage.path / "test.json")
        for seed, stage in stages.items()
        if stage.complete
    }


def _against(
    runs: Mapping[int, Mapping[str, float]], others: Mapping[int, Mapping[str, float]]
) -> dict[str, Any]:
    """Paired difference in accuracy over the seeds that both have."""
    common = [seed for seed in runs if seed in others]
    if not common:
        return {"difference": None, "difference_ci95": None, "p_value": None}
    ours, theirs = (
        [arm[seed]["test/accuracy/principal"] for seed in common] for arm in (runs, others)
    )
    test = paired_test(ours, theirs)
    gap = test.difference
    return {
        "difference": gap.mean,
        "difference_ci95": [gap.low, gap.high] if gap.n > 1 else None,
        "p_value": test.p_value,
    }


def _seconds(folder: Path) -> dict[str, float]:
    """Time of each stage; arms and seeds together, and further discoveries with the main [s]."""
    seconds: dict[str, float] = {}
    for path in sorted(folder.rglob("stage.json")):
        manifest = read_json(path)
        stage = manifest["stage"]
        parts = stage.split("/")
        name = parts[2 if parts[0] == "discoveries" else 0]
        name += "/codes" if parts[-1] == "codes" else ""
        if name != "report":
            seconds[name] = round(seconds.get(name, 0.0) + manifest["seconds"], 2)
    order = ("disentangle", "disentangle/codes", "evaluate", "cluster", "refine", "multitask")
    return dict(sorted(seconds.items(), key=lambda item: [*order, item[0]].index(item[0])))


def _draw(
    run_dir: Path,
    report: Mapping[str, Any],
    codes: Codes,
    tasks: Sequence[AuxiliaryLabels],
    images: Images,
    disentangler: Disentangler | None,
) -> Iterator[tuple[str, str, Figure]]:
    """Draw what there is to draw: name, what it shows in words, figure."""
    arms, described = report["arms"], [report["auxiliary"], *report["further_tasks"]]
    hues = _arm_colours(arms)
    if any(arm["accuracies"] for arm in arms.values()):
        runs = {
            name: dict(zip(arm["seeds"], arm["accuracies"], strict=True))
            for name, arm in arms.items()
        }
        yield "arms", "Test accuracy of every arm, by seed", figures.arms_chart(runs, hues)
    for number, (task, labels) in enumerate(zip(described, tasks, strict=True), start=1):
        own = task.get("codes", "disentangle/codes")
        clustered = codes if own == "disentangle/codes" else Codes.load(run_dir / own)
        for name, alt, figure in _draw_task(task, clustered, labels, images):
            yield f"{name}{task_suffix(number)}", alt, figure
    if disentangler is not None:
        here = [
            task for task in described if task.get("codes") in (None, "disentangle/codes")
        ]  # not of a restart
        yield from _draw_decoded(here, codes, images, disentangler)
    if report["posterior"] is not None:
        yield "kl", "KL divergence of every latent", _draw_posterior(report["posterior"])
    curves = _read_curves(run_dir / "disentangle" / "metrics.csv")
    losses = {name: curves[name] for name in curves if name.startswith("train/")}
    if losses:
        if "val/loss" in curves:
            losses["val/loss"] = curves["val/loss"]
        names = dict(zip(losses, class_colours(len(losses)), strict=True))
        names |= {"train/loss": ACCENT, "val/loss": ACCENT} if "train/loss" in losses else {}
        yield (
            "losses",
            "Losses of the disentanglement by epoch",
            figures.curves_chart(losses, names, "loss", log=True, dashed=["val/loss"]),
        )
    accuracy = {
        name: curve
        for name, arm in arms.items()
        if (curve := _mean_curve(run_dir / "multitask" / name, arm["seeds"])) is not None
    }
    if accuracy:
        yield (
            "accuracy",
            "Validation accuracy of every arm by epoch",
            figures.curves_chart(accuracy, hues, "validation accuracy [%]"),
        )


def _arm_colours(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The main arm blue, controls grey, all others a hue of their own."""
    others = iter(PALETTE[1:] * (1 + len(arms) // 9))
    fixed = {"main": ACCENT, "control": MUTED}
    return {name: fixed.get(arm["kind"]) or next(others) for name, arm in arms.items()}


def _draw_task(
    task: Mapping[str, Any], codes: Codes, labels: AuxiliaryLabels, images: Images
) -> Iterator[tuple[str, str, Figure]]:
    colours = class_colours(labels.n_classes, task.get("noise_class"))
    yield "clusters", "Images of every cluster", _draw_clusters(task, labels, images, colours)
    yield "contingency", "Clusters against known factors", _draw_contingency(task, codes, labels)
    if "subspace" in task:
        yield (
            "codes",
            "Codes of the chosen subspace on their two principal components",
            _draw_codes(task, codes, labels, colours),
        )


def _draw_clusters(
    task: Mapping[str, Any], labels: AuxiliaryLabels, images: Images, colours: Sequence[str]
) -> Figure:
    shown = sorted(task["clusters"][:SHEET_ROWS], key=_is_noise)
    members = []
    for cluster in shown:
        rows = np.flatnonzero((labels.labels == cluster["label"]) & (labels.splits == 0))
        strongest = np.argsort(-labels.strength[rows], kind="stable")
        members.append(rows[strongest[:_SHEET_COLUMNS]])
    every = images(np.concatenate(members)).numpy()
    parts = np.split(every, np.cumsum([len(rows) for rows in members])[:-1])
    sheet = []
    for cluster, part in zip(shown, parts, strict=True):
        detail = f"{plural(cluster['size'], 'image')} · {percent(cluster['share'], 0)}"
        if "leading" in cluster:
            leading = cluster["leading"]
            detail += f"\n{leading['factor']} {leading['value']}: {percent(leading['share'], 0)}"
        sheet.append(SheetRow(cluster["name"], detail, part, colours[cluster["label"]]))
    return figures.image_sheet(sheet)


def _is_noise(cluster: Mapping[str, Any]) -> bool:
    """Whether a row belongs last."""
    return bool(cluster["name"] == "noise")


def _draw_contingency(task: Mapping[str, Any], codes: Codes, labels: AuxiliaryLabels) -> Figure:
    rows = np.flatnonzero((labels.splits == 0) & (labels.labels != IGNORED))
    tables = {}
    for name in filter(None, (codes.info.principal, task["best_factor"])):
        size = codes.info.sizes[codes.info.names.index(name)]
        tables[name] = contingency(
            labels.labels[rows], codes.factor(name)[rows], (labels.n_classes, size)
        )
    # Rows in the order of their main value make the diagonal of a good agreement visible.
    leading = list(tables.values())[-1].argmax(axis=1)
    order = sorted(
        range(labels.n_classes), key=lambda k: (_is_noise(task["clusters"][k]), leading[k])
    )
    names = [task["clusters"][label]["name"] for label in order]
    return figures.contingency_chart({k: table[order] for k, table in tables.items()}, names)


def _draw_codes(
    task: Mapping[str, Any], codes: Codes, labels: AuxiliaryLabels, colours: Sequence[str]
) -> Figure:
    train = codes.rows("train")
    values = codes.values[train, task["subspace"]]
    shown = np.random.default_rng(0).permutation(len(train))[:_SCATTER_POINTS]
    panels = {
        "by cluster": (
            labels.labels[train[shown]],
            [cluster["name"].removeprefix("cluster ") for cluster in task["clusters"]],
        )
    }
    hues = [list(colours)]
    for name in filter(None, (codes.info.principal, task["best_factor"])):
        size = codes.info.sizes[codes.info.names.index(name)]
        panels[f"by {name}"] = (codes.factor(name)[train[shown]], [str(v) for v in range(size)])
        hues.append(class_colours(size))
    return figures.scatter_chart(figures.project(values)[shown], panels, hues)


def _draw_decoded(
    tasks: Sequence[Mapping[str, Any]], codes: Codes, images: Images, disentangler: Disentangler
) -> Iterator[tuple[str, str, Figure]]:
    """Draw what a disentangler that decodes makes of test images; nothing for another one."""
    # The planner prints `arms_table` and must not pay for importing torch.
    from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler

    rows = codes.rows("test")
    if not isinstance(disentangler, AutoencodingDisentangler) or rows.size < 2:
        return
    titles = {codes.info.principal_subspace: "principal"}
    titles |= {task.get("subspace"): "chosen" for task in tasks}
    if codes.values.shape[2] == 1:
        yield (
            "latents",
            "Traversals of one latent a row",
            _draw_latents(codes, images, disentangler, titles),
        )
    else:
        yield (
            "traversals",
            "Traversals from one image to another, one subspace a row",
            _draw_pair(codes, images, disentangler, titles),
        )
    given = images(rows[: _SHEET_COLUMNS + 2])
    decoded = disentangler.decode(disentangler.encode(given.to(disentangler.device))).detach()
    yield (
        "reconstructions",
        "Test images and their reconstructions",
        figures.image_sheet(
            [
                SheetRow("image", "", given.numpy()),
                SheetRow("decoded", "", decoded.cpu().numpy()),
            ]
        ),
    )


def _draw_pair(
    codes: Codes,
    images: Images,
    disentangler: AutoencodingDisentangler,
    titles: Mapping[int | None, str],
) -> Figure:
    from detaux_pl.disentangle.traversal import traversals

    rows = codes.rows("test")
    # The partner that differs from the first image in most factors shows most.
    partner = rows[np.argmax((codes.factors[rows] != codes.factors[rows[0]]).sum(axis=1))]
    pair = images(np.array([rows[0], partner])).to(disentangler.device)
    deviations = codes.values[_sample_test(codes)].std(axis=0, dtype=np.float64)
    most = np.argsort(-np.square(deviations).sum(axis=1), kind="stable")[:_TRAVERSED]
    shown = np.sort(most).tolist()
    painted = traversals(disentangler, pair, shown).cpu().numpy()
    return figures.image_sheet(
        [
            SheetRow(f"subspace {k}", titles.get(k, ""), row)
            for k, row in zip(shown, painted, strict=True)
        ],
        ("image 1", "decoded", "⅓", "⅔", "1", "decoded", "image 2"),
    )


def _draw_latents(
    codes: Codes,
    images: Images,
    disentangler: AutoencodingDisentangler,
    titles: Mapping[int | None, str],
) -> Figure:
    import torch

    from detaux_pl.disentangle.traversal import STEPS, latent_traversals

    values = codes.values[_sample_test(codes)]
    deviations = values.std(axis=0, dtype=np.float64)[:, 0]
    shown = np.argsort(-deviations, kind="stable")[:_TRAVERSED].tolist()
    image = images(codes.rows("test")[:1])[0].to(disentangler.device)
    painted = latent_traversals(disentangler, image, torch.from_numpy(values), shown).cpu().numpy()
    rows = []
    for k, row in zip(shown, painted, strict=True):
        role = f" · {titles[k]}" if k in titles else ""
        rows.append(SheetRow(code_name(k, 1), f"SD {deviations[k]:.2f}{role}", row))
    ends = [f"{step:+g}" if step else "0" for step in STEPS]
    ends = [text.replace("-", "\N{MINUS SIGN}") if "." not in text else "" for text in ends]
    return figures.image_sheet(rows, ("image", "decoded", *ends))


def _draw_posterior(posterior: Mapping[str, Any]) -> Figure:
    kl = np.array(posterior["kl"])
    shown = np.argsort(-kl, kind="stable")[:KL_BARS]
    active = np.isin(shown, posterior["active"])
    return figures.kl_chart(kl[shown].tolist(), active.tolist(), [str(k) for k in shown])


def _draw_matrices(metrics: Mapping[str, Any], codes: Codes) -> Iterator[tuple[str, str, Figure]]:
    """Draw what codes tell of factors, those that tell most, grouped by the factor they lead to."""
    known = {name: np.array(matrix, dtype=float) for name, matrix in metrics["matrices"].items()}
    if not known:
        return
    panels = {}
    if "mutual_information" in known:
        test = codes.rows("test")
        factors = [codes.factor(name)[test] for name in metrics["factors"]]
        whole = np.array([entropy(np.bincount(factor)) for factor in factors])
        panels["mutual information [% of entropy]"] = known["mutual_information"] / whole
    if "importances" in known:
        whole = known["importances"].sum(axis=0)
        panels["importance for boosted trees [%]"] = known["importances"] / np.maximum(whole, 1e-12)
    panels = {title: np.clip(share, 0.0, 1.0) for title, share in panels.items()}
    # Importances tell where mutual information is shared by many codes.
    guide = list(panels.values())[-1]
    leading = np.where(guide.any(axis=1), guide.argmax(axis=1), guide.shape[1])
    most = np.argsort(-guide.sum(axis=1), kind="stable")[:CODE_ROWS]
    order = most[np.lexsort((-guide[most].max(axis=1), leading[most]))]
    names = [code_name(int(k), metrics["shape"][1]) for k in order]
    breaks = np.flatnonzero(np.diff(leading[order])) + 1
    yield (
        "metrics",
        "What each code tells of each factor",
        figures.codes_chart(
            {title: share[order] for title, share in panels.items()},
            names,
            metrics["factors"],
            breaks.tolist(),
        ),
    )


def _read_curves(path: Path) -> dict[str, Curve]:
    """Read the columns of a CSVLogger's record, each by epoch; its last value counts."""
    if not path.is_file():
        return {}
    values: dict[str, dict[int, float]] = {}
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            for name, text in row.items():
                if text and name not in ("epoch", "step") and not name.endswith("_step"):
                    values.setdefault(name.removesuffix("_epoch"), {})[int(row["epoch"])] = float(
                        text
                    )
    return {
        name: Curve(np.array(list(of), dtype=float), np.array(list(of.values())))
        for name, of in values.items()
    }


def _mean_curve(folder: Path, seeds: Sequence[int]) -> Curve | None:
    """Mean validation accuracy over seeds with their range, over the epochs that all have."""
    runs = [
        curves["val/accuracy/principal"]
        for seed in seeds
        if "val/accuracy/principal" in (curves := _read_curves(folder / f"seed{seed}/metrics.csv"))
    ]
    if not runs:
        return None
    n = min(len(run.x) for run in runs)
    values = 100 * np.stack([run.y[:n] for run in runs])
    return Curve(runs[0].x[:n], values.mean(axis=0), values.min(axis=0), values.max(axis=0))
