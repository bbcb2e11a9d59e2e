"""SmallNORB: 60 pairs of images in each part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written_factorials import write_small_norb


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    write_small_norb(root, seed=seed)
    return {"root": str(root)}
