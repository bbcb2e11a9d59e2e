"""Parquet files, which need an optional package."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from detaux_pl.artifacts.errors import UserError


def import_pyarrow(what: str, instead: str) -> tuple[Any, Any]:
    """Import what reads and writes parquet files: `pyarrow` and `pyarrow.parquet`.

    Args:
        what: What needs it, for the message.
        instead: What to do without it.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(
            f'{what} needs pyarrow: pip install "detaux_pl[parquet]", or {instead}.'
        ) from None
