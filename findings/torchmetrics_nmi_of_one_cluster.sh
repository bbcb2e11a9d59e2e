#!/usr/bin/env bash
# Packages: torchmetrics 1.9.0 and scikit-learn 1.9.1 (and torch 2.14.1, numpy 2.4.6).
#
# Guess: labels have an agreement of 1 with themselves, by every score, also where a clustering has
# collapsed to one cluster; and normalised mutual information with the arithmetic mean is the
# V-measure (Vinh et al. 2010; Rosenberg and Hirschberg 2007), as scikit-learn says.
#
# What happens: with a single cluster torchmetrics' NMI and AMI are 0 and its V-measure and ARI are
# 1. Other labels have equal NMI and V-measure. A mean over runs, some of them collapsed, is another
# one by which of two equal scores, or libraries, it is taken.
#
# Output seen (Python 3.11, Linux, x86-64); labels against themselves, and others against drawn ones:
#                                  NMI     AMI       V     ARI
#   one cluster, torchmetrics    0.000   0.000   1.000   1.000
#   one cluster, scikit-learn    1.000   1.000   1.000   1.000
#   two clusters, torchmetrics   1.000   1.000   1.000   1.000
#   two clusters, scikit-learn   1.000   1.000   1.000   1.000
#   others, torchmetrics         0.337   0.329   0.337   0.362
#   others, scikit-learn         0.337   0.329   0.337   0.362
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torchmetrics==1.9.0 scikit-learn==1.9.1 torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import torch
from sklearn import metrics as sklearn
from torchmetrics.functional import clustering

draw = torch.Generator().manual_seed(0)
first = torch.randint(0, 4, (300,), generator=draw)
second = torch.where(
    torch.rand(300, generator=draw) < 0.6, first, torch.randint(0, 4, (300,), generator=draw)
)
pairs = {
    "one cluster": (torch.zeros(300, dtype=torch.int64),) * 2,
    "two clusters": (torch.arange(300) % 2,) * 2,
    "others": (first, second),
}
names = (
    "normalized_mutual_info_score", "adjusted_mutual_info_score", "v_measure_score",
    "adjusted_rand_score",
)  # fmt: skip
print(f"{'':26}" + "".join(f"{name:>8}" for name in ("NMI", "AMI", "V", "ARI")))
found = {}
for name, pair in pairs.items():
    for library, source in (("torchmetrics", clustering), ("scikit-learn", sklearn)):
        own = [round(abs(float(getattr(source, score)(*pair))), 3) for score in names]
        found[name, library] = own
        print(f"{name + ', ' + library:26}" + "".join(f"{value:8.3f}" for value in own))

assert found["one cluster", "torchmetrics"] == [0, 0, 1, 1]
assert found["one cluster", "scikit-learn"] == [1, 1, 1, 1]
assert found["two clusters", "torchmetrics"] == [1, 1, 1, 1]
nmi, _, v, _ = found["others", "torchmetrics"]
assert nmi == v
PYTHON
