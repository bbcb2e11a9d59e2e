"""Disentanglement metrics of several runs in one table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detaux_pl.artifacts.codes import Codes, FactorInfo
from detaux_pl.artifacts.files import write_json
from detaux_pl.artifacts.stage import StageFolder
from detaux_pl.cli.main import main
from detaux_pl.metrics.udr import udr

Refused = Callable[[list[str]], str]


def _write_metrics(
    run_dir: Path,
    dim: dict[str, float],
    subspace: dict[str, float] | None = None,
    **rest: Any,
) -> None:
    """Finish `evaluate` with scores of 3 subspaces of 2 dimensions."""
    folder = StageFolder(run_dir, "evaluate")
    folder.begin({}, {}, {})
    content = {
        "shape": [3, 2],
        "factors": ["digit", "hue"],
        "scores": {"dim": dim, "subspace": subspace or {}},
        "left_out": {},
        **rest,
    }
    write_json(folder.path / "metrics.json", content)
    folder.finish([folder.path / "metrics.json"], 1.0)


def _write_codes(run_dir: Path, seed: int, n: int = 40) -> Codes:
    rng = np.random.default_rng(seed)
    # What seeds have in common, in another order.
    common = np.random.default_rng(0).normal(size=(n, 3, 2))
    values = (common[:, rng.permutation(3)] + 0.5 * rng.normal(size=(n, 3, 2))).astype(np.float32)
    info = FactorInfo(("digit", "hue"), (3, 4), "digit")
    splits = np.full(n, 2, dtype=np.int8)
    splits[: n // 2] = 0
    codes = Codes(values, np.arange(n), splits, np.zeros((n, 2), int), info)
    codes.save(run_dir / "disentangle" / "codes")
    return codes


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two seeds of a group, and a run that is a group of its own and lacks a score."""
    scores: list[dict[str, float]] = [
        {"mig": 0.25, "sap": 0.1, "gaussian_total_correlation": 3.0},
        {"mig": 0.31, "sap": 0.3, "gaussian_total_correlation": 5.5},
    ]
    for seed, own in enumerate(scores):
        _write_metrics(tmp_path / f"beta/seed{seed}", own, {"sap": 0.6 + 0.02 * seed})
    _write_metrics(tmp_path / "plain", {"sap": 0.05}, left_out={"mig": "no codes"})
    return tmp_path


def _runs(study: Path) -> list[str]:
    return [str(study / name) for name in ("beta/seed0", "beta/seed1", "plain")]


def _rows(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()]


def test_means_and_variances_of_every_score(study: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["metrics", *_runs(study), "--format=markdown"]) == 0
    head, _, *rows = _rows(capsys.readouterr().out)
    assert head == [
        "group", "MIG \\[%]", "SAP \\[%]", "Gaussian total correlation \\[nats]",
        "SAP \\[%] (subspaces)",
    ]  # fmt: skip
    # Population variances: shares in points squared, the total correlation in nats squared.
    assert rows == [
        ["beta", "28.0 (9.0)", "20.0 (100.0)", "4.25 (1.6)", "61.0 (1.0)"],
        ["plain", "–", "5.0", "–", "–"],  # noqa: RUF001
    ]


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html"])
def test_every_format_goes_to_the_terminal_or_a_file(
    study: Path, form: str, capsys: pytest.CaptureFixture[str]
):
    words = ["metrics", *_runs(study), "--format", form]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for text in ("beta", "plain", "28.0 (9.0)", "61.0 (1.0)", "4.25 (1.6)"):
        assert text in shown
    path = study / "tables" / f"metrics.{form}"
    assert main([*words, "--output", str(path)]) == 0
    assert path.read_text() == shown


def test_groups_whose_codes_are_there_are_ranked(study: Path, capsys: pytest.CaptureFixture[str]):
    seeds = [study / f"beta/seed{seed}" for seed in (0, 1)]
    codes = [_write_codes(run_dir, seed) for seed, run_dir in enumerate(seeds)]
    _write_codes(study / "plain", 0)
    assert main(["metrics", *_runs(study), "--format=markdown"]) == 0
    head, _, beta, plain = _rows(capsys.readouterr().out)
    assert head[-1] == "UDR \\[%]"
    expected = udr([each.values[each.rows("test")] for each in codes])
    assert 0.3 < expected.mean() < 1
    assert beta[-1] == f"{100 * expected.mean():.1f} ({1e4 * expected.var():.1f})"
    assert plain[-1] == "–"  # noqa: RUF001


@pytest.mark.parametrize("change", ["gone", "other samples", "made again"])
def test_groups_whose_codes_do_not_compare_are_not_ranked(
    study: Path, capsys: pytest.CaptureFixture[str], change: str
):
    for seed in (0, 1):
        _write_codes(study / f"beta/seed{seed}", seed)
    if change == "gone":
        shutil.rmtree(study / "beta/seed1/disentangle/codes")
    elif change == "other samples":
        _write_codes(study / "beta/seed1", 1, 44)
    else:
        path = study / "beta/seed1/evaluate/stage.json"
        path.write_text(
            re.sub(r'"inputs": {}', '"inputs": {"disentangle/codes": "0"}', path.read_text())
        )
    assert main(["metrics", *_runs(study)]) == 0
    assert "UDR" not in capsys.readouterr().out


def test_runs_that_do_not_fit_in_one_table_are_refused(
    study: Path, error_line: Refused, tmp_path: Path
):
    beta, plain = str(study / "beta" / "seed0"), str(study / "plain")
    line = error_line(["metrics", beta, str(study / "beta")])
    assert f"{study / 'beta'} has no finished metrics: run `detaux evaluate --run_dir" in line
    _write_metrics(study / "empty", {})
    line = error_line(["metrics", str(study / "empty")])
    assert f"{study / 'empty'} was evaluated without metrics" in line
    assert "--redo evaluate" in line
    (study / "empty/evaluate/metrics.json").unlink()
    assert "metrics.json is gone" in error_line(["metrics", str(study / "empty")])
    old = StageFolder(study / "old", "evaluate")
    old.begin({}, {}, {})
    old.finish([], 1.0)
    line = error_line(["metrics", str(study / "old")])
    assert f"{study / 'old'} was evaluated without metrics: run `detaux evaluate" in line
    _write_metrics(study / "other", {"mig": 0.5}, factors=["digit"])
    line = error_line(["metrics", beta, str(study / "other")])
    assert "other was judged by digit, the first run by digit, hue: run `detaux evaluate`" in line
    _write_metrics(study / "beta/seed2", {"mig": 0.5}, shape=[10, 1])
    line = error_line(["metrics", beta, str(study / "beta/seed2")])
    assert "beta has runs with codes of 3x2 and 10x1 numbers: group runs that differ" in line
    assert "is given twice" in error_line(["metrics", plain, f"{plain}/"])
    assert "required: RUN_DIR" in error_line(["metrics"])
    assert "--format" in error_line(["metrics", plain, "--format=pdf"])
