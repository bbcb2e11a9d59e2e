#!/usr/bin/env bash
# Package: Pillow 13.0.0 against 12.3.0.
#
# Guess: what `Image.resize` makes of an image is the same in both, to the last byte: the filter is.
#
# What happens: up to 12.3 the width is resized first, to whole levels, then the height. 13.0 begins
# with the height where that leaves less to do, as in images twice as tall as wide, so that it rounds
# elsewhere: a tenth of the pixels is one level darker or brighter. Wide images stay as they were.
# Pixels that were cached under one version are not those that the other reads.
#
# Output seen (Python 3.11, Linux, x86-64):
#   tall: 0.102 of the pixels differ, by 1 at most
#   wide: 0.000 of the pixels differ, by 0 at most
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/resize.py" <<'PYTHON'
import sys

import numpy as np
import PIL
from PIL import Image

size = 20, 20
tall = np.random.default_rng(0).integers(0, 256, (200, 100), dtype=np.uint8)
wide = np.random.default_rng(1).integers(0, 256, (100, 200), dtype=np.uint8)
made = [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in (tall, wide)]
np.savez(sys.argv[1], tall=made[0], wide=made[1])
PYTHON
for version in 12.3.0 13.0.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check \
        pillow==$version numpy==2.4.6
    "$folder/$version/bin/python" -I "$folder/resize.py" "$folder/$version.npz"
done
"$folder/13.0.0/bin/python" -I - "$folder/12.3.0.npz" "$folder/13.0.0.npz" <<'PYTHON'
import sys

import numpy as np

before, after = map(np.load, sys.argv[1:])
for name in ("tall", "wide"):
    gaps = np.abs(before[name].astype(int) - after[name])
    print(f"{name}: {(gaps > 0).mean():.3f} of the pixels differ, by {gaps.max()} at most")

gaps = np.abs(before["tall"].astype(int) - after["tall"])
assert 0.05 < (gaps > 0).mean() < 0.2 and gaps.max() == 1
assert (before["wide"] == after["wide"]).all()
PYTHON
