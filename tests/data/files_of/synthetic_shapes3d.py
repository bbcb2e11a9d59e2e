"""Synthetic 3D Shapes need no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    return {"n_train": 48, "n_val": 12, "n_test": 12, "seed": seed}
