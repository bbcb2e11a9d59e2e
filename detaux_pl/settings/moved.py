"""Class paths of before: the data sets were files of `detaux_pl.data` once, and are found there.

Configs, run folders and scripts that name them so go on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_BEFORE, _NOW = "detaux_pl.data.", "detaux_pl.data.datasets."


class _Moved(MetaPathFinder, Loader):
    """Finds `detaux_pl.data.<data set>`, where nothing else does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = name.removeprefix(_BEFORE)
        if not name.startswith(_BEFORE) or "." in file:
            return None
        room = import_module(_NOW.rstrip(".")).__path__
        return ModuleSpec(name, self) if PathFinder.find_spec(_NOW + file, room) else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module itself, not a copy of it, where it was asked for."""
        sys.modules[module.__name__] = import_module(_NOW + module.__name__.removeprefix(_BEFORE))


def find_moved() -> None:
    """Have data sets found by their path of before, too."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())


def first_path(class_path: str) -> str:
    """Return the path that a class had first, which keys of stages are made from."""
    return class_path.replace(_NOW, _BEFORE)
