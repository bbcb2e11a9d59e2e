"""Stanford Cars: three models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written import write_cars


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    write_cars(root, n_models=3, n_train=20, n_test=8, seed=seed)
    return {"root": str(root), "image_size": 96}
