#!/usr/bin/env bash
# Packages: torchmetrics 1.9.0 (and torch 2.14.1, numpy 2.4.6).
#
# Guess: metrics in a MetricCollection tell what each of them tells alone; those that differ in an
# argument such as ignore_index are kept apart, whatever comes first.
#
# What happens: after the first batch all metrics whose states are equal then become one, and from
# there on only one of them is updated. Two accuracies that differ in ignore_index have equal states
# as long as no image of the class to be left out has come, which of a test set in the order of its
# classes it does last. Here the accuracy without the last class, at which the classifier is bad, is
# 0.900 and is told as 0.812, that of all; in the other order of the two both are 0.900. With
# compute_groups=False, or with the images in a drawn order, both are right.
#
# Output seen (Python 3.11, Linux, x86-64):
#                                         all  without the last class
#   counted by hand                     0.812                   0.900
#   each metric alone                   0.812                   0.900
#   collection, images by class         0.812                   0.812
#   the same, the other one first       0.900                   0.900
#   the same, images in a drawn order   0.812                   0.900
#   the same, compute_groups=False      0.812                   0.900
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torchmetrics==1.9.0 torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

LAST = 9
labels = torch.arange(10).repeat_interleave(100)
number = torch.arange(1000)
# Nine of ten images of a class are told right, but two of a hundred of the last class.
right = torch.where(labels == LAST, number % 100 < 2, number % 10 > 0)
told = torch.where(right, labels, (labels + 1) % 10)
drawn = torch.randperm(1000, generator=torch.Generator().manual_seed(0))


def accuracy(left_out=None):
    return MulticlassAccuracy(10, average="micro", ignore_index=left_out)


def asked(metric, rows=number):
    for part in rows.split(50):
        metric.update(told[part], labels[part])
    return metric.compute()


def collected(rows=number, names=("1 all", "2 others"), **options):
    every, others = names  # a collection takes them by their names
    found = asked(MetricCollection({every: accuracy(), others: accuracy(LAST)}, **options), rows)
    return found[every], found[others]


rows = {
    "counted by hand": (right.float().mean(), right[labels != LAST].float().mean()),
    "each metric alone": (asked(accuracy()), asked(accuracy(LAST))),
    "collection, images by class": collected(),
    "the same, the other one first": collected(names=("2 all", "1 others")),
    "the same, images in a drawn order": collected(drawn),
    "the same, compute_groups=False": collected(compute_groups=False),
}
print(f"{'':34}{'all':>7}  without the last class")
found = {name: tuple(round(float(value), 3) for value in pair) for name, pair in rows.items()}
for name, (every, others) in found.items():
    print(f"{name:34}{every:7.3f}{others:24.3f}")

by_hand, alone, by_class, other_first, in_drawn_order, ungrouped = found.values()
assert by_hand == alone == in_drawn_order == ungrouped == (0.812, 0.9)
assert by_class == (0.812, 0.812)
assert other_first == (0.9, 0.9)
PYTHON
