"""What all tests need."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

# LightningCLI 2.6.6 calls jsonargparse by names that 4.53 deprecates; ours are up to date.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
# Small nets on few cores: threads of several processes only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests share the cores among themselves: processes of metrics take longer to start than to work.
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")

# Millions of objects live as long as the tests do, and looking through them takes a tenth of it.
gc.set_threshold(100_000, 50, 100)

# No file of a test is to outlive a loss of power, and the disk takes its time.
os.fsync = lambda handle: None

_LONGEST = (
    "test_refine.py",
    "test_chain.py",
    "test_shipped_chains.py",
    "test_configs.py",
    "test_ddp.py",
)
"""Files of one test after the other that take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, as forked processes do: the last digits depend on it."""
    import torch  # not before the environment is set

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
