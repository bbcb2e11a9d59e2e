#!/usr/bin/env bash
# Package: Pillow 13.0.0.
#
# Guess: a grey TIFF file that says that its least pixel is white (PhotometricInterpretation 0, as
# scanners and X-ray devices write it) is read as it is to be seen, or as it is stored, in every
# depth alike.
#
# What happens: with 8 bits it is turned round, so that 255 is white; with 16 bits it is not, and
# nothing but the tag says that the picture is a negative.
#
# Output seen (Python 3.11, Linux, x86-64): the stored pixels are 0, 1, 2, 3
#    8 bits, least is black: [0, 1, 2, 3]
#    8 bits, least is white: [255, 254, 253, 252]
#   16 bits, least is black: [0, 1, 2, 3]
#   16 bits, least is white: [0, 1, 2, 3]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" -I - <<'PYTHON'
import io
import struct

import numpy as np
from PIL import Image


def tiff(bits: int, photometric: int) -> io.BytesIO:
    """A baseline TIFF file of one strip: the pixels 0, 1, 2, 3 in a row."""
    data = np.arange(4, dtype=f"<u{bits // 8}").tobytes()
    tags = {
        256: 4, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1,
        279: len(data),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return io.BytesIO(head + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))


found = {}
for bits in (8, 16):
    for photometric, least in ((1, "black"), (0, "white")):
        found[bits, least] = np.asarray(Image.open(tiff(bits, photometric)))[0].tolist()
        print(f"{bits:2} bits, least is {least}: {found[bits, least]}")
assert found[8, "white"] == [255, 254, 253, 252]
assert found[8, "black"] == found[16, "black"] == found[16, "white"] == [0, 1, 2, 3]
PYTHON
