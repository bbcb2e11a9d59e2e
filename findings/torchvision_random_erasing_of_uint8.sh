#!/usr/bin/env bash
# Package: torchvision 0.29.1, with torch 2.14.1.
#
# Guess: `RandomErasing(value="random")` fills its rectangle with noise over the range of the image's
# dtype, as the other transforms of v2 do with colours, or refuses integers.
#
# What happens: the noise is normal, of mean 0 and deviation 1, whatever the dtype. Cast to uint8, the
# usual dtype before `ToDtype(scale=True)`, it is a rectangle of which two thirds are black (0) and
# most of the rest nearly so (1 to 3) or nearly white (252 to 255), as what is below 0 wraps around. In
# float images within [0, 1] it reaches from -4 to 4. A number as `value` is cut off too: 0.5, the
# middle of float images, is 0.
#
# Output seen (Python 3.11, Linux, x86-64; the share of the levels within the rectangle):
#   uint8, random: 0: 68.1 %, 1 to 3: 15.8 %, 4 to 251: 0.0 %, 252 to 255: 16.0 %
#   uint8, 0.5: filled with 0
#   float, random: from -4.34 to 3.37
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torchvision==0.29.1 torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import torch
from torchvision.transforms import v2

torch.manual_seed(0)
half = {"p": 1, "scale": (0.5, 0.5)}
image = torch.full((3, 64, 64), 100, dtype=torch.uint8)

noisy = v2.RandomErasing(value="random", **half)(image)
noise = noisy[noisy != 100]
ranges = {"0": (0, 0), "1 to 3": (1, 3), "4 to 251": (4, 251), "252 to 255": (252, 255)}
shares = {
    name: ((noise >= low) & (noise <= high)).float().mean().item()
    for name, (low, high) in ranges.items()
}
print("uint8, random:", ", ".join(f"{name}: {100 * share:.1f} %" for name, share in shares.items()))

grey = v2.RandomErasing(value=0.5, **half)(image)
(level,) = grey[grey != 100].unique().tolist()
print("uint8, 0.5: filled with", level)

scaled = image / 255
noisy = v2.RandomErasing(value="random", **half)(scaled)
noise = noisy[noisy != scaled]
print(f"float, random: from {noise.min():.2f} to {noise.max():.2f}")

assert shares["0"] > 0.6
assert shares["4 to 251"] < 0.01
assert level == 0
assert noise.min() < -3
assert noise.max() > 3
PYTHON
