"""What all tests need."""

from __future__ import annotations

import os

# LightningCLI 2.6.6 calls jsonargparse by names that 4.53 deprecates; ours are up to date.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
# Small nets on few cores: threads of several processes only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
