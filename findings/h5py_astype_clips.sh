#!/usr/bin/env bash
# Package: h5py 3.16.0 (HDF5 as in its wheel).
#
# Guess: dataset.astype("uint8")[...] is dataset[...].astype("uint8") that saves memory, as the view
# looks and is written like NumPy's, and an assignment to a dataset of uint8 converts as one to an
# array of uint8 does: integers out of range wrap around.
#
# What happens: HDF5 converts, and clips: 300 is 255 through the view, 44 through NumPy. Assignment
# clips as well. Neither warns.
#
# Output seen (Python 3.11, Linux, x86-64):
#   values                         -5 7 255 256 300
#   dataset.astype("uint8")[...]   0 7 255 255 255
#   dataset[...].astype("uint8")   251 7 255 0 44
#   assigned to a dataset of uint8 0 7 255 255 255
#   assigned to an array of uint8  251 7 255 0 44
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    h5py==3.16.0 numpy==2.4.6
"$folder/venv/bin/python" -I - <<'PYTHON'
import tempfile

import h5py
import numpy as np

values = np.array([-5, 7, 255, 256, 300])
with tempfile.TemporaryFile() as raw, h5py.File(raw, "w") as file:
    dataset = file.create_dataset("values", data=values)
    view = dataset.astype("uint8")[...]
    read = dataset[...].astype("uint8")
    target = file.create_dataset("target", shape=values.shape, dtype="uint8")
    target[...] = values
    assigned = target[...]
array = np.zeros(values.shape, dtype="uint8")
array[...] = values
print("values                        ", *values)
print('dataset.astype("uint8")[...]  ', *view)
print('dataset[...].astype("uint8")  ', *read)
print("assigned to a dataset of uint8", *assigned)
print("assigned to an array of uint8 ", *array)

assert view.tolist() == assigned.tolist() == [0, 7, 255, 255, 255]
assert read.tolist() == array.tolist() == [251, 7, 255, 0, 44]
PYTHON
