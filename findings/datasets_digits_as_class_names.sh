#!/usr/bin/env bash
# Package: datasets 5.2.0 (Hugging Face).
#
# Guess: strings become the indices of their names. One that is no name is refused, also where all
# names are digits.
#
# What happens: a string that is no name but reads as an integer is taken for the index itself. With
# the names 1, 2, 3 the stray label "0" becomes class 0, whose name is "1": two values of the column
# end up as one class, without a warning. "4", which is no index either, is refused, as is "zero".
#
# Output seen (Python 3.11, Linux, x86-64):
#   '1' -> class 0, named '1'
#   '2' -> class 1, named '2'
#   '3' -> class 2, named '3'
#   '0' -> class 0, named '1'
#   '4' -> ValueError: Invalid string class label 4
#   'zero' -> ValueError: Invalid string class label zero
#   a column ['0', '1', '2', '3'] cast: [0, 0, 1, 2] built: [0, 0, 1, 2]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
"$folder/venv/bin/python" -I - <<'PYTHON'
from datasets import ClassLabel, Dataset, Features, disable_progress_bars

disable_progress_bars()
label = ClassLabel(names=["1", "2", "3"])
for value in ("1", "2", "3", "0"):
    index = label.str2int(value)
    print(f"{value!r} -> class {index}, named {label.int2str(index)!r}")
refused = []
for value in ("4", "zero"):
    try:
        label.str2int(value)
    except ValueError as error:
        refused.append(value)
        print(f"{value!r} -> ValueError: {error}")

column = ["0", "1", "2", "3"]
cast = Dataset.from_dict({"label": column}).cast_column("label", label)
built = Dataset.from_dict({"label": column}, features=Features(label=label))
print("a column", column, "cast:", list(cast["label"]), "built:", list(built["label"]))

assert label.str2int("0") == label.str2int("1") == 0
assert refused == ["4", "zero"]
assert list(cast["label"]) == list(built["label"]) == [0, 0, 1, 2]
PYTHON
