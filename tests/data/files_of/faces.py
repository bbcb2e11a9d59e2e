"""FACES: all images of four persons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written import write_faces


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    write_faces(root, n_persons=4, seed=seed)
    return {"root": str(root), "image_size": 96}
