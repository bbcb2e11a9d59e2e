"""Cars3D: three cars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written_factorials import write_cars3d


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    write_cars3d(root, (3 + seed, 1, 12), packed=False)
    return {"root": str(root), "n_train": 48, "n_val": 10, "n_test": 12}
