"""MPI3D: all images of two positions of the arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written_factorials import mini_mpi3d, write_mpi3d


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    mini_mpi3d(monkeypatch)
    path, _ = write_mpi3d(root, seed=seed)
    return {"path": str(path), "n_train": 48, "n_val": 12, "n_test": 12}
