"""SVHN: 60 and 20 images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written_arrays import accept_svhn, write_svhn


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    write_svhn(root, n_train=60, n_test=20, seed=seed)
    accept_svhn(monkeypatch, root)
    return {"root": str(root)}
