#!/usr/bin/env bash
# Packages: torchmetrics 1.9.0 and scikit-learn 1.9.1 (and torch 2.14.1, numpy 2.4.6).
#
# Guess: adjusted mutual information reads a table of contingencies, so that it takes as long for
# 10 x 10 clusters of many samples as of few, and no longer than in scikit-learn.
#
# What happens: torchmetrics sums what is expected over every count that a cell may have, one after
# the other in Python. Its time grows with the number of samples: 32,000 in ten clusters take half
# a minute, a thousand times as long as in scikit-learn, whose score is the same. By that rate
# 480,000, as 3D Shapes has, would take eight minutes, in each epoch that logs it.
#
# Output seen (Python 3.11, Linux, x86-64, one core; seconds of processor time):
#  samples   torchmetrics   scikit-learn   score
#     2,000          2.78 s        0.011 s   0.801
#     8,000          9.48 s        0.008 s   0.780
#    32,000         33.34 s        0.034 s   0.786
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torchmetrics==1.9.0 scikit-learn==1.9.1 torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import time

import torch
from sklearn.metrics import adjusted_mutual_info_score as of_sklearn
from torchmetrics.functional.clustering import adjusted_mutual_info_score as of_torchmetrics

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)


def timed(score, *labels):
    began = time.process_time()
    return float(score(*labels)), time.process_time() - began


print("samples   torchmetrics   scikit-learn   score")
found = {}
for n in (2_000, 8_000, 32_000):
    clusters = torch.randint(0, 10, (n,), generator=draw)
    others = torch.randint(0, 10, (n,), generator=draw)
    labels = torch.where(torch.rand(n, generator=draw) < 0.9, clusters, others)
    (ours, first), (theirs, second) = (
        timed(score, clusters, labels) for score in (of_torchmetrics, of_sklearn)
    )
    assert abs(ours - theirs) < 1e-4
    found[n] = first, second
    print(f"{n:7,}{first:14.2f} s{second:13.3f} s{ours:8.3f}")

assert found[32_000][0] > 8 * found[2_000][0]
assert found[32_000][0] > 50 * found[32_000][1]
PYTHON
