"""A folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written import write_class_folders


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    write_class_folders(root, n=30, seed=seed)
    return {"root": str(root)}
