"""The report of a run: what it shows, in numbers, pictures and one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import replacing, write_json, write_text
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cluster.tried import read_candidates
from detaux_pl.report.page import render_page
from detaux_pl.report.section import Images, View
from detaux_pl.report.sections import find_sections
from detaux_pl.report.sections.run import describe_run
from detaux_pl.report.sections.shortcuts import describe_shortcuts
from detaux_pl.report.style import to_png, to_svg
from detaux_pl.report.task import read_tasks
from detaux_pl.report.wording import Verdict, accuracy_text, p_text, percent, points, verdict

if TYPE_CHECKING:
    from detaux_pl.disentangle.base import Disentangler


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
    tasks = read_tasks(run_dir, codes, arms[0])
    view = View(
        run_dir, arms, baseline, seeds, codes, tasks, images, disentangler, discoveries
    )  # fmt: skip
    sections = find_sections()
    report: dict[str, Any] = {
        "run": run_dir.resolve().name,
        "verdict": "",
        "principal": codes.info.principal,
        "main": arms[0],
        "baseline": baseline,
    }
    for section in sections:
        report |= section.describe(view)
    told = verdict(report)
    report["verdict"] = told.headline
    charts = {}
    for name, alt, figure in (each for section in sections for each in section.draw(view, report)):
        with replacing(run_dir / "report" / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(to_png(figure))
        charts[name] = to_svg(figure, name, alt)
    return _write(run_dir, report, render_page(report, charts, told, sections))


def write_report_without_task(run_dir: Path) -> dict[str, Any]:
    """Write the report of a run that found no task worth training on: why, and what it tried.

    Args:
        run_dir: Folder of the run; its stage `cluster` is finished.

    Returns:
        The content of `report.json`.

    Raises:
        ArtifactError: If the stage tried no candidates.
    """
    candidates = read_candidates(StageFolder(run_dir, "cluster"))
    if candidates is None:
        raise ArtifactError(f"{run_dir / 'cluster'} says of no candidates that they were tried.")
    found = candidates["verdict"]
    report = {
        "run": run_dir.resolve().name,
        "verdict": found["sentence"],
        "principal": Codes.load(run_dir / "disentangle" / "codes").info.principal,
        "candidates": candidates,
        "arms": {},
        **describe_shortcuts(run_dir, None),
        **describe_run(run_dir),
    }
    told = Verdict("none", f"{found['headline']}.", tuple(found["details"]))
    sections = [section for section in find_sections() if section.without_task]
    return _write(run_dir, report, render_page(report, {}, told, sections))


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
        diverged = len(arm.get("diverged_seeds", ()))
        cells.append(
            f"{finished} of {finished + len(arm['missing_seeds'])}"
            + (f", {diverged} diverged" if diverged else "")
        )
        table.add_row(*cells, style="bold" if name == report["main"] else None)
        ensemble = arm.get("ensemble")  # reports of earlier versions have none
        if ensemble is not None and len(ensemble["seeds"]) > 1:
            gap = ensemble["difference"]
            cells = ["  all seeds together", percent(ensemble["accuracy"])]
            cells += [] if baseline is None else ["" if gap is None else points(gap)]
            table.add_row(*cells)
    return table


def _write(run_dir: Path, report: dict[str, Any], page: str) -> dict[str, Any]:
    """Write the page and what it shows; the settings have a file of their own."""
    content = {name: value for name, value in report.items() if name != "config"}
    write_text(run_dir / "report" / "report.html", page)
    write_json(run_dir / "report" / "report.json", content)
    return content
