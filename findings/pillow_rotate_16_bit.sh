#!/usr/bin/env bash
# Package: Pillow 13.0.0.
#
# Guess: Image.rotate and Image.transform with bilinear interpolation work on a 16-bit grey image
# (mode I;16) as they do on modes I and F, or refuse it as Image.filter and Image.reduce do. Where
# all pixels are 300, they stay 300.
#
# What happens: no error, and other grey values. The two bytes of a pixel, 300 = 1 * 256 + 44, are
# dealt out as pixels of their own, 44, 1, 44, 1, ..., even by the identity transform; bicubic does
# so too. Nearest neighbour is right, and so are bilinear Image.resize and modes I and F: convert to
# one of them first.
#
# Output seen (Python 3.11, Linux, x86-64):
#   mode I;16 all 300
#   bilinear, identity: 44 1 44 1 44 1 44 1
#   bilinear, by 10 degrees, the middle: 5 40 4 39
#   nearest: [300]
#   bilinear in mode I: [300]
#   bilinear in mode F: [300.]
#   bilinear resize: [300]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" -I - <<'PYTHON'
import numpy as np
from PIL import Image

image = Image.fromarray(np.full((8, 8), 300, np.uint16))
identity = (1, 0, 0, 0, 1, 0)


def transformed(image: Image.Image, resample: Image.Resampling) -> np.ndarray:
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, identity, resample))


found = transformed(image, Image.Resampling.BILINEAR)
print("mode", image.mode, "all", np.asarray(image).max())
print("bilinear, identity:", *found[0])
turned = np.asarray(image.rotate(10, Image.Resampling.BILINEAR))
print("bilinear, by 10 degrees, the middle:", *turned[3:5, 3:5].ravel())
print("nearest:", np.unique(transformed(image, Image.Resampling.NEAREST)))
print("bilinear in mode I:", np.unique(transformed(image.convert("I"), Image.Resampling.BILINEAR)))
print("bilinear in mode F:", np.unique(transformed(image.convert("F"), Image.Resampling.BILINEAR)))
print("bilinear resize:", np.unique(np.asarray(image.resize((5, 5), Image.Resampling.BILINEAR))))

assert image.mode == "I;16"
assert set(found.ravel()) == {1, 44}
assert set(transformed(image, Image.Resampling.BICUBIC).ravel()) == {1, 44}
assert turned[3:5, 3:5].max() < 300
assert (transformed(image, Image.Resampling.NEAREST) == 300).all()
for mode in ("I", "F"):
    assert (transformed(image.convert(mode), Image.Resampling.BILINEAR) == 300).all()
assert (np.asarray(image.resize((5, 5), Image.Resampling.BILINEAR)) == 300).all()
PYTHON
