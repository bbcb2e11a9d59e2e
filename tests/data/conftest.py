from __future__ import annotations

from pathlib import Path

import pytest

from detaux_pl.data.datasets.digit_scenes import DigitScenes


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the geometry of SyntheticShapes3D is cast once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def scenes() -> DigitScenes:
    return DigitScenes(n_train=50, n_val=20, n_test=31)
