from __future__ import annotations

import pytest

from detaux_pl.report import style


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw pictures of few pixels, in a third less time, where a test asks for the page alone."""
    monkeypatch.setattr(style, "PNG_DPI", 30)
