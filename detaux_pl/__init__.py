"""Disentangled representations that discover auxiliary tasks.

`detaux_pl.load(folder)` opens what `detaux fit` or `detaux export` wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detaux_pl.inference.bundle import Bundle
    from detaux_pl.inference.run import Run, load

__all__ = ["Bundle", "Run", "load"]


def __getattr__(name: str) -> Any:
    # On demand: the command line's help must not wait for torch.
    if name in __all__:
        from detaux_pl.inference import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
