"""`make bench`: every figure of speed, each as a ratio in one run where there is a rival."""

from __future__ import annotations

import importlib
import pkgutil

import torch
from rich.console import Console
from rich.table import Table

import tests.benchmarks


def main() -> None:
    """Run every module of this folder that measures, and print one table."""
    table = Table(title=f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for module in pkgutil.iter_modules(tests.benchmarks.__path__, "tests.benchmarks."):
        measure = getattr(importlib.import_module(module.name), "measure", None)
        if measure is None:
            continue
        for name, value, unit in measure():
            table.add_row(name, f"{value:,.2f}" if value < 100 else f"{value:,.0f}", unit)
        table.add_section()
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
