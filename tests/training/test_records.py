"""The CSV record of trainings that were interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from detaux_pl.training.records import epochs_recorded


@pytest.mark.parametrize(("parts", "n"), [([], 0), ([[0]], 1), ([[0, 1, 2], [2, 3]], 4)])
def test_epochs_that_are_finished_are_counted(tmp_path: Path, parts: list[list[int]], n: int):
    for k, epochs in enumerate(parts):
        path = tmp_path / "logs" / f"part{k}" / "metrics.csv"
        path.parent.mkdir(parents=True)
        rows = [f"{epoch},{8 * epoch + 7},0.5" for epoch in epochs]
        path.write_text("\n".join(["epoch,step,train/loss", *rows, ""]))
    assert epochs_recorded(tmp_path) == n
