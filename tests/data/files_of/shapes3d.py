"""3D Shapes: the images that are drawn, the others black."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detaux_pl.data.datasets.synthetic_shapes3d import SyntheticShapes3D
from tests.data.written_shapes3d import write_shapes3d


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    counts = {"n_train": 48, "n_val": 12, "n_test": 12}
    drawn = SyntheticShapes3D(**counts, cache_dir=root / "geometry")
    drawn.setup()
    return {"path": str(write_shapes3d(root / "3dshapes.h5", drawn)), **counts}
