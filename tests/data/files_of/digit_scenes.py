"""Digit scenes need no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    return {"n_train": 200, "n_val": 50, "n_test": 50, "seed": seed}
