"""MNIST and STL-10: some hundred images of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written_mnist_stl10 import accept_stl10, write_mnist, write_stl10


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    write_mnist(root)
    write_stl10(root)
    accept_stl10(monkeypatch, root)
    return {"root": str(root), "n_train": 48, "n_val": 12, "n_test": 12}
