"""A data set that was saved to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written_arrays import write_hugging_face


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    write_hugging_face(root / "mine", seed=seed)
    return {"path": str(root / "mine"), "principal": "label"}
