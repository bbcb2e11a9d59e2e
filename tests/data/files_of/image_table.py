"""A table of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written import write_table


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    return {"path": str(write_table(root, n=30, seed=seed)), "principal": "label"}
