"""Disentanglement metrics of several runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from detaux_pl.artifacts.errors import UserError
from detaux_pl.metrics.records import SCORES, find_score
from detaux_pl.report.grid import Grid, Spread, percent_cell, spread

Rows = Literal["groups", "scores"]
"""What stands in the rows of a table; the other one has the columns."""

Study = dict[str, dict[tuple[str, str], Spread]]
"""Scores by group, and by variant (`dim`, `subspace` or `models`) and name."""

_ORDER = list(SCORES)
_VARIANTS = ("dim", "subspace", "models")


def collate(
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    udr: Mapping[str, Sequence[float]] | None = None,
) -> Study:
    """Take means and variances over the seeds of every group.

    Args:
        groups: Contents of `metrics.json` by group, one per seed and at least one.
        udr: Score of each model by unsupervised disentanglement ranking, for the groups that have
            it.

    Returns:
        The study. A score that some run of a group lacks, that group lacks: a mean over the seeds
        that could be judged would be of the better ones.

    Raises:
        UserError: If there is no run, runs were judged by different factors, or runs of a group
            have codes of different shapes.
    """
    if not groups or not all(groups.values()):
        raise UserError("there is no run, or a group without one: give the metrics of each group.")
    first = next(iter(groups.values()))[0]["factors"]
    study: Study = {}
    for group, runs in groups.items():
        for run in runs:
            if run["factors"] != first:
                raise UserError(
                    f"{group} was judged by {_listed(run['factors'])}, the first run by "
                    f"{_listed(first)}: run `detaux evaluate` with the same --tasks in all."
                )
            if run["shape"] != runs[0]["shape"]:
                shapes = " and ".join("x".join(map(str, each["shape"])) for each in (runs[0], run))
                raise UserError(
                    f"{group} has runs with codes of {shapes} numbers: group runs that differ in "
                    "their seed alone."
                )
        study[group] = {
            (variant, name): spread([run["scores"][variant][name] for run in runs])
            for variant, names in runs[0]["scores"].items()
            for name in names
            if all(name in run["scores"][variant] for run in runs)
        }
        if udr and group in udr:
            study[group]["models", "udr"] = spread(udr[group])
    return study


def lay_out(study: Study, rows: Rows = "groups") -> Grid:
    """Lay out a table of a study; what a group lacks is a dash."""
    keys = sorted({key for scores in study.values() for key in scores}, key=_place)
    cells = {
        group: [_cell(key, scores.get(key)) for key in keys] for group, scores in study.items()
    }
    if rows == "groups":
        return Grid("group", [("", _head(key)) for key in keys], [list(cells.items())])
    columns = zip(*cells.values(), strict=True)
    lines = [(_head(key), list(line)) for key, line in zip(keys, columns, strict=True)]
    return Grid("score", [("", group) for group in cells], [lines])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no factor"


def _place(key: tuple[str, str]) -> tuple[int, int, str]:
    variant, name = key
    known = _ORDER.index(name) if name in _ORDER else len(_ORDER)
    return _VARIANTS.index(variant), known, name


def _head(key: tuple[str, str]) -> str:
    variant, name = key
    if variant == "models":
        return "UDR [%]"
    text = find_score(name)
    unit = " [%]" if text.share else ""
    return f"{text.name}{unit}{' (subspaces)' if variant == 'subspace' else ''}"


def _cell(key: tuple[str, str], number: Spread | None) -> str:
    if number is None:
        return "\N{EN DASH}"
    if key[0] == "models" or find_score(key[1]).share:
        return percent_cell(number)
    text = f"{number.mean:.3g}"
    return text if number.n == 1 else f"{text} ({number.variance:.2g})"
