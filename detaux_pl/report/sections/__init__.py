"""The sections of the page, one a file; each says where on the page it stands."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from detaux_pl.report.section import Section


def find_sections() -> list[Section]:
    """Every section, in the order of the page."""
    names = [module.name for module in pkgutil.iter_modules(__path__, f"{__name__}.")]
    found: list[Section] = [import_module(name).SECTION for name in names]
    return sorted(found, key=lambda section: section.place)
