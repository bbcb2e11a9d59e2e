#!/usr/bin/env bash
# Package: safetensors 0.8.0.
#
# Guess: a dict that is saved comes back in its order, as from torch.save and numpy.savez, or in the
# order of the names.
#
# What happens: arrays are stored by the width of their types, the widest first, then by name, and
# come back so. Weights whose names differ between two libraries cannot be matched by their order:
# batch norm's int64 counters come before everything, and arrays of one shape change places.
#
# Output seen (Python 3.11, Linux, x86-64):
#   saved:  stem, body, counter, head
#   loaded: counter, body, head, stem
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
    safetensors==0.8.0 numpy==2.4.6
"$folder/env/bin/python" -I - "$folder/weights.safetensors" <<'PYTHON'
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

given = {name: np.zeros((2, 2), np.float32) for name in ("stem", "body")}
given |= {"counter": np.zeros(1, np.int64), "head": np.zeros((2, 2), np.float32)}
save_file(given, sys.argv[1])
loaded = load_file(sys.argv[1])
print(f"saved:  {', '.join(given)}")
print(f"loaded: {', '.join(loaded)}")
assert list(loaded) == ["counter", "body", "head", "stem"]
PYTHON
