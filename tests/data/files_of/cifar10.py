"""CIFAR-10: 60 and 20 images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.written_arrays import accept_cifar10, write_cifar10


def write(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> dict[str, Any]:
    write_cifar10(root, n_train=60, n_test=20, seed=seed)
    accept_cifar10(monkeypatch, root)
    return {"root": str(root)}
