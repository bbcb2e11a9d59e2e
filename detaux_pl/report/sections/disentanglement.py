"""Scores of disentanglement, what codes tell of factors, the posterior of a VAE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import entropy

from detaux_pl.artifacts.codes import Codes
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.evaluation.results import Metrics, read_metrics
from detaux_pl.metrics.records import RECORDS
from detaux_pl.report.charts import codes_chart, kl_chart
from detaux_pl.report.markup import (
    CODE_ROWS,
    html_bar,
    html_cell,
    html_chart,
    html_lead,
    html_list,
    html_optional,
    html_table,
    html_text,
    shown_of,
)
from detaux_pl.report.section import Charts, Part, Picture, Report, Section, View
from detaux_pl.report.wording import code_name, collapse_text, plural, score_text

KL_BARS = 100
"""Latents that the chart of their KL divergence shows at most."""


_BATCH = 250
"""How many of them are encoded at once."""


def _describe(view: View) -> dict[str, Any]:
    metrics = _read_metrics(view.run_dir)
    return {
        "metrics": metrics and {k: v for k, v in metrics.items() if k != "matrices"},
        "posterior": _describe_posterior(view),
    }


def _read_metrics(run_dir: Path) -> Metrics | None:
    """Scores of disentanglement; None where none was asked for."""
    stage = StageFolder(run_dir, "evaluate")
    path = stage.path / "metrics.json"
    if not stage.complete or not path.is_file():
        return None
    metrics = read_metrics(run_dir)
    return metrics if metrics["scores"]["dim"] or metrics["left_out"] else None


def _describe_posterior(view: View) -> dict[str, Any] | None:
    """What each latent of a VAE says of test images; None for another disentangler."""
    rows, disentangler = view.test_sample, view.disentangler
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
            posterior = disentangler.posterior(view.images(part).to(disentangler.device))
            means.append(posterior.mean.double().cpu())
            divergences.append(gaussian_kl(posterior.mean, posterior.log_variance).double().cpu())
    active = torch.cat(means).var(dim=0, correction=0) > ACTIVE
    return {
        "kl": torch.cat(divergences).mean(dim=0).tolist(),
        "active": active.nonzero().flatten().tolist(),
        "active_units": int(active.sum()),
        "n_latents": len(active),
    }


def _draw(view: View, report: Report) -> Iterator[Picture]:
    if report["posterior"] is not None:
        yield Picture("kl", "KL divergence of every latent", _draw_posterior(report["posterior"]))
    metrics = _read_metrics(view.run_dir)
    if metrics is not None and metrics.get("matrices"):
        yield Picture(
            "metrics", "What each code tells of each factor", _draw_matrices(metrics, view.codes)
        )


def _draw_posterior(posterior: Mapping[str, Any]) -> Figure:
    kl = np.array(posterior["kl"])
    shown = np.argsort(-kl, kind="stable")[:KL_BARS]
    active = np.isin(shown, posterior["active"])
    return kl_chart(kl[shown].tolist(), active.tolist(), [str(k) for k in shown])


def _draw_matrices(metrics: Mapping[str, Any], codes: Codes) -> Figure:
    """Draw what codes tell of factors, those that tell most, grouped by the factor they lead to."""
    known = {name: np.array(matrix, dtype=float) for name, matrix in metrics["matrices"].items()}
    panels = {}
    if "mutual_information" in known:
        test = codes.rows("test")
        factors = [codes.factor(name)[test] for name in metrics["factors"]]
        whole = np.array([entropy(np.bincount(factor)) for factor in factors])
        panels["mutual information [% of entropy]"] = known["mutual_information"] / whole
    for fit in (record.fit for record in RECORDS.values() if record.fit is not None):
        if fit.matrix in known:
            whole = known[fit.matrix].sum(axis=0)
            panels[fit.title] = known[fit.matrix] / np.maximum(whole, 1e-12)
    panels = {title: np.clip(share, 0.0, 1.0) for title, share in panels.items()}
    # Importances tell where mutual information is shared by many codes.
    guide = list(panels.values())[-1]
    leading = np.where(guide.any(axis=1), guide.argmax(axis=1), guide.shape[1])
    most = np.argsort(-guide.sum(axis=1), kind="stable")[:CODE_ROWS]
    order = most[np.lexsort((-guide[most].max(axis=1), leading[most]))]
    names = [code_name(int(k), metrics["shape"][1]) for k in order]
    breaks = np.flatnonzero(np.diff(leading[order])) + 1
    return codes_chart(
        {title: share[order] for title, share in panels.items()},
        names,
        metrics["factors"],
        breaks.tolist(),
    )


def _body(report: Report, charts: Charts) -> str:
    metrics, posterior = report["metrics"], report["posterior"]
    parts = []
    if warning := collapse_text(report):
        parts.append(f'<p class="warning">{html_text(warning)}</p>\n')
    if metrics is not None:
        parts.append(_scores(metrics, charts))
    if posterior is not None:
        parts.append(
            html_chart(
                charts,
                "kl",
                "KL divergence of the posterior of each latent from the prior N(0, 1), mean over "
                f"test images: 0 says nothing of the image. {posterior['active_units']} of "
                f"{plural(posterior['n_latents'], 'latent')} active: the mean of the posterior has "
                "a variance above 0.01 over them (Burda et al. 2016)."
                + shown_of(
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
    by_dim, by_subspace = metrics["scores"]["dim"], metrics["scores"].get("subspace", {})
    head = ["score", "better", "per dimension", *(["per subspace"] if dims > 1 else [])]
    rows = []
    for key in dict.fromkeys([*by_dim, *by_subspace]):
        told = score_text(key)
        row = [html_cell(told.name, told.meaning), html_cell(told.better)]
        for values in (by_dim, by_subspace)[: 1 + (dims > 1)]:
            value = values.get(key)
            bar = value is not None and told.share
            row.append(
                html_bar(value) if bar else html_optional(value, lambda number: f"{number:.3g}")
            )
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
        + html_chart(
            charts,
            "metrics",
            "What each code by itself tells of each factor, as a share of the factor's entropy; "
            "and how much of what boosted trees tell of it rests on the code. Grouped by the "
            "factor that a code counts most for. The darkest colour of a panel is its largest "
            "number, or 25 where all are smaller."
            + shown_of(min(CODE_ROWS, n_codes), n_codes, "codes, those that count most"),
            "Codes and factors",
        )
    )


def _render(report: Report, charts: Charts) -> list[Part]:
    return [Part("disentanglement", "Disentanglement", _body(report, charts))]


SECTION = Section(
    place=80,
    render=_render,
    describe=_describe,
    draw=_draw,
)
