#!/usr/bin/env bash
# Package: jsonargparse 4.53.0, which LightningCLI parses with.
#
# Guess: `null` on the command line is None for an argument of a class within a class, as it is for
# an argument of the class itself, and as it is in a config file at any depth.
#
# What happens: two levels down it arrives as the text of Python's None. A union with str or Path
# takes it for that, without a word: the cache lies in a folder named None. A union of int and None
# refuses it.
#
# Output seen (Python 3.11, Linux, x86-64):
#   folder of the outer class: None
#   folder of the inner class: 'None'
#   number of the inner class: refused
#   both from a config:        None None
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "jsonargparse[signatures]==4.53.0"
cat > "$folder/nested.py" <<'PYTHON'
from jsonargparse import ArgumentParser


class Dataset:
    def __init__(self, folder: str | None = "here", number: int | None = 1) -> None:
        pass


class Data:
    def __init__(self, dataset: Dataset, folder: str | None = "here") -> None:
        pass


def parse(*words: str):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Data, "data")
    return parser.parse_args(["--data=Data", "--data.dataset=Dataset", *words]).data.init_args


outer = parse("--data.folder=null").folder
print("folder of the outer class:", repr(outer))
inner = parse("--data.dataset.init_args.folder=null").dataset.init_args.folder
print("folder of the inner class:", repr(inner))
try:
    parse("--data.dataset.init_args.number=null")
    refused = False
except Exception:
    refused = True
print("number of the inner class:", "refused" if refused else "taken")
said = '{"class_path": "Dataset", "init_args": {"folder": null, "number": null}}'
given = parse(f"--data.dataset={said}").dataset.init_args
print("both from a config:       ", given.folder, given.number)
assert (outer, inner, refused) == (None, "None", True)
assert (given.folder, given.number) == (None, None)
PYTHON
"$folder/venv/bin/python" -I "$folder/nested.py"
