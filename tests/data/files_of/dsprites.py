"""dSprites: fewer values of each factor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written_factorials import write_dsprites


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    path, _ = write_dsprites(root, seed=seed)
    return {"path": str(path), "n_train": 48}
