"""Images and labels as arrays in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written_arrays import write_npz


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    write_npz(root / "mine.npz", seed=seed)
    return {"path": str(root / "mine.npz"), "principal": "label"}
